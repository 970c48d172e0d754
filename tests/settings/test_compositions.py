"""Merging the next of many configurations by its values alone: the same as merging it whole."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.settings import compositions
from psychocounsel.settings.config import check, compose
from tests.support.harness import ROOT
from tests.support.in_process import run_here

_BASE = ["algo=dpo", "cluster=slurm", "run_dir=never"]


def _found(overrides: list[str]) -> tuple[str, dict[str, Any]]:
    """What checking makes of a configuration: its values and the type of every node, or the refusal."""

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


def test_a_configuration_is_not_changed_by_the_next() -> None:
    first = check(compose(_BASE))
    before = OmegaConf.to_yaml(first)
    second = check(compose([*_BASE, "algo.beta=0.7"]))
    second.algo.beta = 0.9
    assert OmegaConf.to_yaml(first) == before
    assert check(compose([*_BASE, "algo.beta=0.7"])).algo.beta == 0.7
