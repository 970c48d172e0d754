"""Helpers that run the step `speeches` in this process on a test's files."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from psychocounsel.annotation.speeches.step import run
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import StepContext
from tests.support.harness import ROOT

LONG = "I have been lying awake since the move and do not know how to tell anyone at home about it, night after night. "


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def section(**changed: Any) -> DictConfig:
    """Return conf/speeches/local.yaml with changed keys."""
    return OmegaConf.merge(OmegaConf.load(ROOT / "conf" / "speeches" / "local.yaml"), {"presidio": "never", **changed})  # type: ignore[return-value]


def made(
    out: Path, fraction: float = 0.25, seed: int = 0, **changed: Any
) -> tuple[dict[str, Any], AnnotationDir, list[str]]:
    """Run the step; returns its figures, the directory and the printed lines."""
    out.mkdir(exist_ok=True)
    config = OmegaConf.create(
        {"speeches": section(**changed), "pairs": {"test_fraction": fraction, "split_seed": seed}}
    )
    said: list[str] = []
    figures = run(StepContext(config, AnnotationDir(out), said.append, lambda items, *_, **__: items))
    return figures, AnnotationDir(out), said


def table(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows
