"""A sweep needs -m, or a user's own configuration; and configurations of one process do not change each other."""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from tests.support.composed import check, compose
from tests.support.harness import ROOT
from tests.support.in_process import run_here

_BASE = ["algo=dpo", "cluster=slurm", "run_dir=never"]


def test_no_shipped_file_makes_a_run_a_sweep_and_a_users_own_may(
    own_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_a_configuration_is_not_changed_by_the_next() -> None:
    first = check(compose(_BASE))
    before = OmegaConf.to_yaml(first)
    second = check(compose([*_BASE, "algo.beta=0.7"]))
    second.algo.beta = 0.9
    assert OmegaConf.to_yaml(first) == before
    assert check(compose([*_BASE, "algo.beta=0.7"])).algo.beta == 0.7
