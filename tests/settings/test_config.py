"""Every configuration composes and passes its checks, YAML files and dataclasses have the same keys, wrong values are refused."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.engine.settings import TrainConfig
from psychocounsel.errors import UserError
from psychocounsel.evaluation.audit.settings import AuditConfig
from psychocounsel.evaluation.settings import EvaluateConfig
from psychocounsel.rundir.identity import check_same_run, fingerprint, identity, slug
from psychocounsel.settings.config import target_class
from psychocounsel.storage.files import shipped
from tests.support.composed import check, checked, compose, with_values
from tests.support.harness import ROOT

CONF = shipped("conf")
GROUPS = ("algo", "model", "data", "zero", "cluster", "tracker", "paths", "experiment", "debug")
CHOICES = [f"{group}={file.stem}" for group in GROUPS for file in sorted((CONF / group).glob("*.yaml"))]
NEED_MORE = {"data=local": ["data.path=org/name"], "model=local": ["model.path=org/name"]}
NEED_MORE["data=cactus"] = ["algo=sft"]  # conversations, of which each turn is learned
NEED_MORE |= {f"data={name}": ["algo=sft", "data.path=org/name"] for name in ("annomi", "esconv", "soulchat")}
NEED_MORE["experiment=paper_dpo_iter_3b"] = ["reward.path=org/name", "rollout=hf"]  # vLLM need not be installed here
NEED_MORE["experiment=paper_dpo_iter_8b"] = ["rollout=hf"]
# A dry run reports that vLLM is not installed, and continues.
NEED_MORE |= {
    f"experiment={name}": ["dry_run=true"] for name in ("ppo_8b", "online_dpo_8b", "online_dpo_8b_async", "grpo_8b")
}


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_passes_its_checks(choice: str) -> None:
    if choice.endswith("offload"):
        with pytest.raises(UserError, match="this machine has no GPU"):
            check(compose([choice, "cluster.device=cpu"]))
    else:
        config = check(compose([choice, *NEED_MORE.get(choice, [])]))
        assert not OmegaConf.missing_keys(config)


@pytest.mark.parametrize("group", ["algo", "cluster", "tracker", "reward", "rollout"])
def test_yaml_and_dataclass_name_the_same_keys(group: str) -> None:
    for file in (CONF / group).glob("*.yaml"):
        composed = compose(["algo=ppo", f"{group}={file.stem}"])
        fields = {item.name for item in dataclasses.fields(target_class(composed, group))}
        assert set(composed[group]) - {"_target_"} == fields, file


@pytest.mark.parametrize(
    ("command", "schema"), [("train", TrainConfig), ("evaluate", EvaluateConfig), ("audit", AuditConfig)]
)
def test_yaml_lists_every_key_of_the_schema(command: str, schema: type) -> None:
    composed = compose([], name=command)
    for item in dataclasses.fields(schema):
        assert item.name in composed or item.name == "settled", "this one is nothing to type"
        if dataclasses.is_dataclass(item.type):
            assert set(composed[item.name]) == {inner.name for inner in dataclasses.fields(item.type)}


WRONG = [
    (["algo.beta=hello"], "algo.beta=hello: must be a number"),
    (["algo.beta=-1"], "algo.beta=-1.0: must be greater than 0"),
    (["algo.loss_type=foo"], "algo.loss_type=foo: must be one of sigmoid, robust, hinge, ipo"),
    (["algo.label_smoothing=0.5"], "must be less than 0.5"),
    (["max_steps=1.5"], "max_steps"),
    (["max_steps=0"], "max_steps=0: must be at least 1"),
    (["data.fraction=1.2"], "data.fraction=1.2: must be at most 1"),
    (["data.fraction=0.5", "data.limit=3"], "exclude each other"),
    (["data.dev_fraction=1"], "must be less than 1"),
    (["micro_batch_tokens=100"], "micro_batch_tokens=100 is smaller than max_length=1024"),
    (["max_prompt_length=1024"], "must be less than max_length"),
    (["zero.stage=4"], "zero.stage=4: must be at most 3"),
    (["zero=2_offload", "cluster.device=cpu"], "this machine has no GPU"),
    (["data=local"], "data.path is not set"),
    (["data=local", "data.path=missing.jsonl"], "no such file or folder"),
    (["data.eval_path=./nothing"], "no such file or folder"),
    (["model=local"], "model.path is not set"),
    (["model.path=/nowhere"], "no such file or folder"),
    (["model.path=pyproject.toml"], "is a file"),
    (["model.path=tests"], "contains no config.json"),
    (["model.chat_template=missing.jinja"], "model.chat_template=missing.jinja: no such file"),
    (["data.principle_weights.safety=-1"], "must be at least 0"),
    (["data.mix=[{path: pyproject.toml}]"], "give either rows or weight"),
    (["data.mix=[{path: tests, rows: 1},{path: tests, weight: 1}]"], "not both kinds"),
    (["data.mix=[{path: tests, rows: 0}]"], "data.mix\\[0\\].rows=0: must be at least 1"),
    (["+callbacks.a={_target_: nowhere.X}"], "no such module"),
    (["+callbacks.a=3"], "needs a _target_"),
    (["algo._target_=psychocounsel.algo.dpo.Nope"], "cannot be imported"),
    (["+nonsense=1"], "unknown key nonsense"),
    (["+algo.betta=1"], "unknown key algo.betta: did you mean algo.beta?"),
    (["+algo.temperature=0.8"], "^algo.temperature=0.8: was renamed to rollout.temperature$"),
    (["+rollout.samples=3"], "^rollout.samples=3: was renamed to rollout.shown_prompts$"),
    (["algo=ppo", "+rollout.samples=0"], "^rollout.samples=0: was renamed to rollout.shown_prompts$"),
    (["algo=ppo", "rollout.temperature=0"], "rollout.temperature=0.0: must be greater than 0"),
]


@pytest.mark.parametrize(("overrides", "message"), WRONG, ids=[" ".join(case[0]) for case in WRONG])
def test_wrong_values_are_refused_in_one_line(
    overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CONF.parent)
    with pytest.raises(UserError, match=message) as caught:
        check(compose(overrides))
    assert "\n" not in str(caught.value)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    config = check(compose(["data=local", "data.path=rows.jsonl", "run_dir=here", "paths.output='~/out'"]))
    assert config.data.path == str(tmp_path / "rows.jsonl")
    assert config.run_dir == str(tmp_path / "here")
    assert config.paths.output == str(Path.home() / "out")


def test_learning_rate_suits_the_model() -> None:
    assert check(compose([])).algo.lr == 3e-4
    assert check(compose(["model=llama3_1_8b"])).algo.lr == 5e-7
    assert check(compose(["model.path=org/name"])).algo.lr == 5e-7
    assert check(compose(["model=llama3_1_8b", "algo.lr=1e-6"])).algo.lr == 1e-6


def test_same_run_allows_what_does_not_change_training(tmp_path: Path) -> None:
    old = check(compose(["max_steps=5"]))
    same = check(compose(["max_steps=9", "eval.every=3", "checkpoint.keep_last=2", "tracker=wandb", "run_dir=/x"]))
    check_same_run(same, old, tmp_path)
    assert identity(same) == identity(old)
    served = ["algo=online_dpo", "rollout=vllm_server"]
    elsewhere = ["rollout.addresses=[http://a:1]", "rollout.transfer=http", "rollout.timeout_seconds=9"]
    assert identity(compose([*served, *elsewhere])) == identity(compose(served)) != identity(compose(served[:1]))
    for overrides, name in [(["algo.beta=0.2"], "algo.beta"), (["seed=2"], "seed"), (["data.limit=4"], "data.limit")]:
        with pytest.raises(UserError, match=rf"other settings \({name} was"):
            check_same_run(check(compose(overrides)), old, tmp_path)
    with pytest.raises(UserError, match="may grow but not shrink"):
        check_same_run(check(compose(["max_steps=4"])), old, tmp_path)
    check_same_run(check(compose([])), old, tmp_path)
    with pytest.raises(UserError, match="may grow but not shrink"):
        check_same_run(old, check(compose([])), tmp_path)


def test_fingerprint_follows_what_defines_the_run() -> None:
    base = check(compose([]))
    assert fingerprint(base) == fingerprint(check(compose(["cluster.threads=1", "run_dir=/x"])))
    assert fingerprint(base) != fingerprint(check(compose(["epochs=4"])))
    assert fingerprint(base, data="a") != fingerprint(base, data="b")


def test_names_hold_only_safe_characters() -> None:
    assert slug("algo=dpo,lr=1e-4") == "algo-dpo-lr-1e-4"
    long = slug("x" * 200)
    assert len(long) <= 80 and long != slug("x" * 201)


@pytest.mark.slow
def test_help_and_checks_import_no_torch_and_are_quick(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")  # the check of rows would import it
    work = tmp_path / "work"
    work.mkdir()
    code = (
        "import runpy, sys, time; sys.argv = ['x', {argument!r}]\n"
        "class Asked:\n"
        "    def find_spec(self, name, path=None, target=None): assert name != 'torch'\n"
        "sys.meta_path.insert(0, Asked())\n"
        "try: runpy.run_module('psychocounsel.{module}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {{'torch', 'transformers', 'datasets', 'deepspeed', 'numpy'}} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "seconds = time.process_time()\n"
        "assert seconds < 2, seconds\n"
    )
    for module, argument in (
        ("train", "--help"),
        ("train", "dry_run=true"),
        ("evaluate", "dry_run=true"),
        ("audit", "--help"),
    ):
        command = [sys.executable, "-c", code.format(module=module, argument=argument)]
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip()
    assert not list(work.iterdir()), "a dry run writes nothing"


def test_a_path_of_your_own_needs_no_other_preset(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}")
    data = check(compose([f"data.path={tmp_path}/pairs.jsonl"])).data
    assert (data.min_gap, data.dev_fraction) == (None, 0.1), "the sample's own settings are not for other data"
    sample = check(compose([])).data
    assert (sample.min_gap, sample.dev_fraction) == (1.0, 0.2)


def test_names_follow_a_path_given_in_place_of_what_ships(tmp_path: Path) -> None:
    model = tmp_path / "sft-run" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (tmp_path / "pairs.v2.jsonl").write_text("{}")
    assert check(compose([])).model.name == "tiny"
    config = check(compose([f"model.path={model}", f"data.path={tmp_path}/pairs.v2.jsonl"]))
    assert (config.model.name, config.data.name) == ("sft-run", "pairs.v2")
    assert check(compose(["model=llama3_1_8b", f"model.path={model}"])).model.name == "llama3_1_8b"


def test_a_section_that_an_earlier_stage_chose_replaces_the_placeholders() -> None:
    """Otherwise the keys of both algorithms would be mixed."""
    dpo, simpo = (checked(f"algo={name}") for name in ("dpo", "simpo"))
    assert with_values(dpo, {"algo": OmegaConf.to_container(simpo.algo)}).algo == simpo.algo
