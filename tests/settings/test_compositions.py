"""Setting only changed values in the last merged configuration gives the same result as a merge."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import omegaconf._utils
import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from psychocounsel.errors import UserError
from psychocounsel.settings import compositions
from psychocounsel.settings.config import check, compose
from psychocounsel.storage.files import shipped
from tests.support.harness import ROOT
from tests.support.in_process import run_here

_BASE = ["algo=dpo", "cluster=slurm", "run_dir=never"]


def _found(overrides: list[str]) -> tuple[str, dict[str, Any]]:
    """Return the result of checking a configuration: its values and the type of every node, or the refusal."""

    def types(node: Any, path: str = "") -> dict[str, Any]:
        inner = node.keys() if isinstance(node, DictConfig) else ()
        nested = [types(node._get_node(key), f"{path}.{key}") for key in inner]
        return {
            path: (type(node), OmegaConf.get_type(node)),
            **{key: value for part in nested for key, value in part.items()},
        }

    try:
        config = check(compose(overrides))
    except UserError as error:
        return str(error), {}
    return OmegaConf.to_yaml(config), {**types(config), "of": type(OmegaConf.to_object(config.zero))}


def test_no_shipped_file_makes_a_run_a_sweep_and_a_users_own_may(
    own_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a configuration of the user's own, Hydra is not asked for `hydra.mode`."""
    for file in (ROOT / "conf").rglob("*.yaml"):
        section = (yaml.safe_load(file.read_text()) or {}).get("hydra") or {}
        assert not isinstance(section, dict) or "mode" not in section, file
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    (tmp_path / "my" / "experiment" / "many.yaml").write_text("# @package _global_\nhydra: {mode: MULTIRUN}\n")
    refused = "with -m give sweep_dir"
    for line in ("train --config-dir=my experiment=many run_dir=x", "train hydra.mode=MULTIRUN run_dir=x"):
        assert refused in run_here(line).stderr
    for line in ("train --multirun seed=1 run_dir=x", "train -m run_dir=x"):
        assert refused in run_here(line).stderr
    assert refused not in run_here("train seed=-1 run_dir=x").stderr


@pytest.mark.parametrize(("chosen", "tone"), [([], "warm"), (["colour=blue"], "cold"), (["tone=of_red"], "warm")])
def test_a_users_own_defaults_may_name_other_choices(chosen: list[str], tone: str, tmp_path: Path) -> None:
    """Choices are collected only for a defaults list with an interpolation."""
    (tmp_path / "own.yaml").write_text("defaults: [{colour: red}, {tone: 'of_${colour}'}, _self_]\n")
    for name, text in {
        "colour/red": "a: 1",
        "colour/blue": "a: 2",
        "tone/of_red": "is: warm",
        "tone/of_blue": "is: cold",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert hydra_compose("own", chosen).tone["is"] == tone
        assert hydra_compose("own", chosen).colour.a == 1 + ("colour=blue" in chosen)


@pytest.mark.parametrize(
    "changes",
    [
        ["algo.beta=0.3", "seed=7"],
        ["algo.beta=1"],
        ["algo.lr=1e-6"],
        ["seed='7'"],
        ["max_steps=5"],
        ["max_steps=null", "eval.limit=3"],
        ["model.path=/somewhere/else", "model.name=mine"],
        ["model.lora.targets=[q_proj]", "model.lora.rank=4"],
        ["+model.template_args.a=1"],
        ["+callbacks.mine={_target_: os.getcwd}"],
        ["data.mix=[{path: builtin:sample, rows: 3}]"],
        ["+cluster.sbatch.hold=true"],
        ["zero='3'"],
        ["micro_batch_tokens=auto"],
        ["deterministic=1"],
        ["seed=many"],
        ["algo.beta=high"],
        ["eval.every=-1"],
        ["+algo.gamma=3"],
        ["algo.beta='${seed}'"],
    ],
)
def test_values_set_in_the_last_configuration_give_what_merging_gives(changes: list[str]) -> None:
    check(compose(_BASE))
    found = _found(_BASE + changes)
    compositions._last.clear()
    assert found == _found(_BASE + changes)
    assert compositions._last or not found[1], "what was found first was found by changing the last"


@pytest.mark.parametrize("name", ["train", "annotate", "audit", "chat"])
def test_plain_values_are_read_as_omegaconf_reads_them(name: str) -> None:
    """Composed configurations have interpolations and missing values; checked ones also have types and unions."""
    composed = compose(["+none=null", "+missing='???'", "+list=[1,{a: '${none}'},null]", "+text='a${none}b'"], name)
    for config in (composed, check(compose(_BASE))) if name == "train" else (composed,):
        for options in ((True, False), (False, False), (False, True)):
            assert _tried(compositions._to_content, config, *options) == _tried(compositions._convert, config, *options)
        for node in _mappings(config):
            for key in (*node.keys(), "absent"):
                assert _tried(compositions._get_impl, node, key, None) == _tried(compositions._read, node, key, None)
                marker = omegaconf._utils._DEFAULT_MARKER_
                assert _tried(compositions._get_impl, node, key, marker) == _tried(
                    compositions._read, node, key, marker
                )


def _tried(read: Callable[..., Any], *given: Any) -> Any:
    try:
        value = read(*given)
        return type(value), repr(value)
    except OmegaConfBaseException as error:
        return type(error), str(error)


def _mappings(node: Any) -> Iterator[DictConfig]:
    if isinstance(node, DictConfig) and isinstance(node._content, dict):
        yield node
        for inner in node._content.values():
            yield from _mappings(inner)


def test_a_configuration_is_not_changed_by_the_next() -> None:
    first = check(compose(_BASE))
    before = OmegaConf.to_yaml(first)
    second = check(compose([*_BASE, "algo.beta=0.7"]))
    second.algo.beta = 0.9
    assert OmegaConf.to_yaml(first) == before
    assert check(compose([*_BASE, "algo.beta=0.7"])).algo.beta == 0.7


def test_a_file_composed_alone_is_what_hydra_composes(tmp_path: Path) -> None:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(shipped("conf").resolve()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for name in ("reward/tiny", "reward/ensemble", "judge/several", "writers/pool", "annotator/local_vllm"):
            expected, found = hydra_compose(name), compositions.compose_alone(loader, name)
            assert OmegaConf.to_yaml(found) == OmegaConf.to_yaml(expected)
            assert OmegaConf.is_struct(found) == OmegaConf.is_struct(expected)
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "plain.yaml").write_text("path: here\nseed: 3\n")
    (tmp_path / "reward" / "mine.yaml").write_text("defaults: [plain, _self_]\nseed: 4\nagain: ${reward.path}\n")
    (tmp_path / "reward" / "odd.yaml").write_text("defaults: [absent, _self_]\n")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        mine = compositions.compose_alone(loader, "reward/mine")
        assert mine == hydra_compose("reward/mine") == {"reward": {"path": "here", "seed": 4, "again": "here"}}
        with pytest.raises(MissingConfigException) as by_hydra:
            hydra_compose("reward/odd")
        with pytest.raises(MissingConfigException) as alone:
            compositions.compose_alone(loader, "reward/odd")
        assert str(alone.value) == str(by_hydra.value)
