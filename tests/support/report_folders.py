"""Writers of run directories, sweeps and studies like those of the commands, for tests of reports. They take milliseconds.

    training_run(folder / "a", "algo=dpo", "seed=1", steps=20)
    sweep(folder / "sweep", [["algo.beta=0.1", "seed=1"], ["algo.beta=0.1", "seed=2"]], steps=20)
    winrate_run(folder / "winrate", win_rate=0.6, speech="<script>alert(1)</script>")
    study(folder / "study", {"dpo": [["seed=1"], ["seed=2"]]})

Figures depend only on the seed. A test that needs other figures passes `lines` or `summary`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from omegaconf import OmegaConf

from psychocounsel.evaluation.contestants.replies_step import SCHEMA as REPLIES
from psychocounsel.evaluation.contestants.speeches import SCHEMA as SPEECHES
from tests.support.composed import check, compose
from tests.support.contests import contest
from tests.support.learning_lines import Line, learning_lines, summary_of

VERSIONS = {"psychocounsel": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.19.0", "numpy": "2.3.5"}
_GROUPS = ("algo", "model", "data", "reward", "rollout", "cluster", "tracker", "callbacks", "experiment")


def training_run(
    path: Path,
    *overrides: str,
    steps: int = 8,
    every: int = 4,
    status: str | None = "finished",
    online: bool = False,
    lines: Sequence[Line] | None = None,
    summary: Mapping[str, Any] | None = None,
    gpus: Sequence[str] = (),
    processes: int = 1,
    sweep_dir: Path | None = None,
) -> Path:
    """Write the directory of a training run. If `status` is None, summary.json is not written.

    Files, as `train` writes them: config, job, overrides, code, state, environment, metrics, summary, and the log of attempt 1.
    """
    values = _config("train", *overrides)
    values |= {"run_dir": str(path), "sweep_dir": sweep_dir and str(sweep_dir), "max_steps": steps}
    values["eval"]["every"] = every
    made = [*(learning_lines(values["seed"], steps, every, online) if lines is None else lines)]
    begin(path, "psychocounsel.train", values, overrides)
    environment = {"attempt": 1, "nodes": ["node-1"], "python": "3.11.7", "versions": VERSIONS, "gpus": [*gpus]}
    environment |= {"processes": processes, "threads": 1, "data": "25cc1e86" * 8, "weights": f"sha256:{'995b5dde' * 8}"}
    _json(path / "environment.json", environment)
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in made))
    done = max((line["step"] for line in made), default=0)
    about = {"attempt": 1, "phase": status or "training", "step": done, "total": steps, "heartbeat": time.time()}
    _json(path / "state.json", about)
    if status is not None:
        _json(path / "summary.json", summary if summary is not None else summary_of(status, steps, made))
    return path


def sweep(path: Path, jobs: Sequence[Sequence[str]], **options: Any) -> Path:
    """Write a sweep's folder with one training run per list of overrides; `options` are passed to `training_run`."""
    rows = []
    for index, overrides in enumerate(jobs):
        name = cell_name(overrides)
        training_run(path / name, *overrides, sweep_dir=path, **options)
        rows.append({"index": index, "overrides": [*overrides], "run_dir": name})
    (path / "sweep.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def cell_name(overrides: Sequence[str]) -> str:
    """Return the folder name of a run: `beta-0.1_seed-2` for `algo.beta=0.1 seed=2`."""
    parts = [text.split("=", 1) for text in overrides]
    return "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in parts) or "run"


def winrate_run(
    path: Path,
    *overrides: str,
    win_rate: float = 0.6,
    low: float = 0.5,
    high: float = 0.7,
    speech: str | None = "I feel alone at night.",
    reply: str = "What happens at night?",
    status: str = "finished",
) -> Path:
    """Write a directory of `evaluate evaluation=winrate`: tiny_dpo against tiny. If `speech` is None, it has no tables."""
    values = _config("evaluate", "evaluation=winrate", *overrides) | {"run_dir": str(path)}
    begin(path, "psychocounsel.evaluate", values, ("evaluation=winrate", *overrides))
    names = ("win_rate", "win_rate_low", "win_rate_high")
    metrics = dict(zip(names, (win_rate, low, high), strict=True))
    metrics |= {f"{name}/tiny": value for name, value in metrics.items()}
    found = {"value": win_rate, "low": low, "high": high}
    shares = {"won": win_rate, "partly_won": 0.0, "tied": 0.0, "partly_lost": 0.0, "lost": 1 - win_rate}
    overall = {"win_rate": found, "shares": shares, "prompts": 40, "rows": 80, "unjudged": 0, "small": False}
    seeds = {"mean": win_rate, "sd": None, "n": 1, "opponent_n": 1, "interval": [low, high], "over_seeds": False}
    opponents = {"tiny": {"overall": overall, "seeds": {**seeds, "by_seed": {"0": win_rate}}}}
    figures = {
        "evaluation": "winrate",
        "model": "tiny_dpo",
        "left_out": 0,
        "variants": [{"length_limit": None, "opponents": opponents}],
    }
    _json(path / "figures.json", figures)
    _json(path / "summary.json", {"status": status, "metrics": metrics})
    _json(
        path / "state.json", {"attempt": 1, "phase": "statistics", "step": 0, "total": None, "heartbeat": time.time()}
    )
    record(path, "verdicts", {"verdicts": 40, "failed": 0, "spent": 1.25, "bought": 80}, seconds=9.5)
    if speech is not None:
        _texts(path, speech, reply)
    return path


def _texts(path: Path, speech: str, reply: str) -> None:
    about = {"speech": "s1", "text": speech, "topic": "grief", "risk": "none", "crisis": False, "near_training": False}
    about |= {"messages": json.dumps([{"role": "user", "content": speech}]), "risk_source": "column"}
    write_table(path / "speeches.parquet", SPEECHES, [about])
    common = {"speech": "s1", "seed": 0, "sample": 0, "text": reply, "outcome": "text", "prompt_version": "p"}
    rows = [{**common, "contestant": name, "setting": name, "reply": name} for name in ("tiny_dpo", "tiny")]
    write_table(path / "replies.parquet", REPLIES, rows)


def write_table(path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as parquet. Columns that a row lacks are null."""
    pq.write_table(pa.Table.from_pylist([{**dict.fromkeys(schema.names), **row} for row in rows], schema), path)


def reward_run(path: Path, *overrides: str, accuracy: float = 0.7, status: str = "finished") -> Path:
    """Write a directory of `evaluate evaluation=reward` of one reward model."""
    values = _config("evaluate", *overrides) | {"run_dir": str(path)}
    begin(path, "psychocounsel.evaluate", values, overrides)
    metrics = {"pairs": 174, "prompts": 71, "accuracy": accuracy, "accuracy_low": accuracy - 0.1}
    _json(path / "summary.json", {"status": status, "metrics": {**metrics, "accuracy_high": accuracy + 0.1}})
    _json(path / "state.json", {"attempt": 1, "phase": "finished", "step": 0, "total": None, "heartbeat": time.time()})
    bins = [{"from": 0.5, "to": 0.6, "mean_p": 0.55, "right": 0.6, "low": 0.5, "high": 0.7, "n": 174}]
    _json(path / "reliability.json", {values["reward"]["name"]: {"equal_width": bins, "equal_mass": bins}})
    return path


def audit_run(path: Path, *overrides: str, blind: float = 0.61, status: str = "finished") -> Path:
    """Write the directory of an audit."""
    values = _config("audit", *overrides) | {"run_dir": str(path)}
    begin(path, "psychocounsel.audit", values, overrides)
    metrics = {"blind_accuracy": blind, "blind_low": blind - 0.03, "blind_high": blind + 0.03}
    _json(path / "summary.json", {"status": status, "metrics": metrics})
    _json(path / "audit.json", {"settings": {"audit": values["audit"]}, "fingerprint": "6317743c", **metrics})
    return path


def record(path: Path, step: str, figures: Mapping[str, Any], seconds: float = 1.0) -> None:
    """Write the record of a finished step of annotate or of an evaluation."""
    (path / "steps").mkdir(exist_ok=True)
    about = {"step": step, "fingerprint": "24174a80" * 8, "settings": {}, "sources": {}, "version": "0.1.0"}
    _json(path / "steps" / f"{step}.json", {**about, "seconds": seconds, "figures": figures})


def slurm_attempt(path: Path, number: int, started: float, ended: float | None, verdict: str = "finished") -> None:
    """Write the record that a SLURM job keeps of an attempt. If `ended` is None, the attempt was killed or still runs."""
    (path / "logs" / f"{number:02d}").mkdir(parents=True, exist_ok=True)
    about: Line = {"job": "17", "array": None, "index": None, "restarts": 0, "nodes": "node-1", "started": started}
    if ended is not None:
        code = 0 if verdict == "finished" else 1
        about |= {"ended": ended, "code": code, "step": 0, "verdict": verdict, "reason": verdict, "rank": None}
    _json(path / "logs" / f"{number:02d}" / "attempt.json", about)


def study(path: Path, stages: Mapping[str, Sequence[Sequence[str]]], best: str = "eval/loss", **options: Any) -> Path:
    """Write a study whose stages are finished training runs. In a stage of several cells, the first cell is the best."""
    listed: Line = {}
    for stage, jobs in stages.items():
        sweep(path / stage, jobs, **options)
        cells = []
        for overrides in jobs:
            run_dir = f"{stage}/{cell_name(overrides)}"
            swept = dict(text.split("=", 1) for text in overrides)
            cells.append(
                {
                    "name": cell_name(overrides),
                    "run_dir": run_dir,
                    "swept": swept,
                    "fingerprint": "f4e7",
                    "parent": None,
                }
            )
        metric = best if len(jobs) > 1 else None
        listed[stage] = {
            "command": "train",
            "best": metric,
            "select": "select-1c059bf0" if metric else None,
            "cells": cells,
        }
        if metric:
            _selection(path / stage, cell_name(jobs[0]), metric)
    _json(path / "cells.json", {"stages": listed})
    about = {"about": "A study.", "values": {}, "stages": {stage: {"run": ["train"]} for stage in stages}}
    (path / "study.yaml").write_text(yaml.safe_dump(about, sort_keys=False))
    (path / "table.csv").write_text("setting,runs,eval/loss\ndpo,2,0.5\n")
    return path


def _selection(stage: Path, chosen: str, metric: str) -> None:
    about = {"metric": metric, "mode": "min", "chosen": {"run": chosen, "setting": {}, "value": 0.5}, "settings": []}
    _json(stage / "best.json", about)
    own = stage / "select-1c059bf0"
    begin(own, "psychocounsel.launch", {"study": {"metric": metric, "kind": "select"}}, ())
    _json(own / "summary.json", {"status": "finished", "metrics": {metric: 0.5}})
    _json(own / "best.json", about)
    for link in ("best", "best-1c059bf0"):
        (stage / link).symlink_to(chosen)


def begin(path: Path, module: str, values: Any, overrides: Sequence[str]) -> None:
    """Write the files that a command writes before the run starts, and an empty log of attempt 1."""
    (path / "logs" / "01").mkdir(parents=True)
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    (path / "config.yaml").write_text(yaml.dump(values, Dumper=dumper, sort_keys=False, allow_unicode=True))
    _json(path / "job.json", {"module": module, "index": 0, "after": []})
    (path / "overrides.txt").write_text("".join(f"{text}\n" for text in overrides))
    (path / "code.txt").write_text("psychocounsel 0.1.0\ncommit 4e012600c0330ca129cdbd67c0450adfece34e9c\n")
    (path / "logs" / "01" / "rank-0.log").write_text("")


def _config(command: str, *overrides: str) -> dict[str, Any]:
    """Return the checked configuration of a command. Only overrides of groups are composed; plain values are set later."""
    chosen = tuple(text for text in overrides if text.partition("=")[0] in (*_GROUPS, "evaluation", "against"))
    values: dict[str, Any] = deepcopy(_composed(command, chosen))
    for text in overrides:
        if text not in chosen:
            _set(values, *text.split("=", 1))
    return values


def _set(values: dict[str, Any], key: str, text: str) -> None:
    *parents, last = key.split(".")
    for name in parents:
        values = values[name]
    assert last in values, f"{key}: this setting does not exist"
    values[last] = yaml.safe_load(text)


@cache
def _composed(command: str, overrides: tuple[str, ...]) -> Any:
    checked = contest(*overrides) if command == "evaluate" else check(compose([*overrides], command))
    return OmegaConf.to_container(checked)


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
