"""`evaluate evaluation=winrate` on a real SLURM: an array shares replies and verdicts, and a last job makes the figures."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from psychocounsel.storage.files import read_json
from tests.support.annotating import model_server
from tests.support.contests import PROMPTS, Recorder, data, replies, shown, verdict
from tests.support.harness import cli
from tests.support.scripted import completion
from tests.support.slurm_cluster import Cluster, start

SLURM = ["cluster=slurm_cpu", "cluster.cpus_per_process=1", "cluster.stop_before_limit=1m", "shards=2"]


@pytest.fixture(scope="module")
def slurm(small_model: Path) -> Iterator[Cluster]:
    yield from start(small_model)


@pytest.mark.slow
def test_shards_give_the_figures_of_one_process(slurm: Cluster, tmp_path: Path) -> None:
    for name, words in (("mine", "a long and patient reply"), ("base", "no")):
        replies(tmp_path / f"{name}.jsonl", lambda prompt, words=words: f"{words} to {prompt[:13]}")  # type: ignore[misc]
    asked = Recorder(
        lambda payload, _: completion(
            verdict("first" if len(shown(payload)[0]) > len(shown(payload)[1]) else "second"), payload
        )
    )
    with model_server(0.3, asked) as server:
        given = ["evaluate", "evaluation=winrate", *data(tmp_path), "model.path=mine.jsonl", "against=base.jsonl"]
        given += ["judge=local_vllm", "judge.model=j", f"judge.addresses=[{server.address}/v1]", "judge.concurrency=1"]
        given += ["evaluation.controls=0"]
        out = tmp_path / "shared"
        planned = cli(*given, *SLURM, f"run_dir={out}", "dry_run=script", cwd=tmp_path, **slurm.environment).stdout
        assert "--array=0-1" in planned and planned.count("#!/bin/bash") == 2
        assert f"verdicts: {2 * len(PROMPTS)} calls" in planned
        held = [*SLURM[:-1], "shards=3", "+cluster.sbatch.hold=true", f"run_dir={out}"]
        cli(*given, *held, cwd=tmp_path, **slurm.environment)
        assert "cancelled 4 runs" in slurm.jobs("cancel", str(out)), "its shards, too; the next command has fewer"
        submitted = cli(*given, *SLURM, f"run_dir={out}", cwd=tmp_path, **slurm.environment).stdout
        assert "submitted array of 2" in submitted
        slurm.until(lambda: len(asked.payloads) > 4, 120, out)
        jobs = [json.loads(file.read_text())["jobs"] for file in sorted((out / "shards").rglob("submission.json"))]
        slurm.call("scancel", "--signal=USR1", "--batch", jobs[-1][-1])  # both are asked to stop, and requeued
        assert slurm.ended(out) == ["finished"]
        assert set(slurm.states(out / "shards")) == {"finished"}
        keys = [json.loads(line)["key"] for file in (out / "answers").glob("*.jsonl") for line in file.open()]
        assert len(keys) == len(set(keys)) == 4 * len(PROMPTS), "each answer exactly once"
        cli(*given, f"run_dir={tmp_path}/whole", "cluster.threads=1", cwd=tmp_path)
    for table in ("speeches", "replies", "verdicts"):
        tables = [pq.read_table(folder / f"{table}.parquet").to_pylist() for folder in (out, tmp_path / "whole")]
        assert tables[0] == tables[1]
    assert read_json(out / "figures.json") == read_json(tmp_path / "whole" / "figures.json")
    assert not list((out / "shards").rglob("*.parquet"))


@pytest.mark.slow
def test_a_sweep_shares_the_work_of_each_run_and_a_wait_ends_with_them(slurm: Cluster, tmp_path: Path) -> None:
    sweep, hold = tmp_path / "sweep", "+cluster.sbatch.hold=true"
    given = [
        "evaluate",
        "-m",
        "evaluation=winrate,health",
        "model.path=builtin:tiny_dpo",
        "limit=4",
        f"sweep_dir={sweep}",
    ]
    command = [sys.executable, "-m", "psychocounsel", *given, *SLURM, hold, "cluster.wait=true"]
    waiting = subprocess.Popen(command, env={**os.environ, **slurm.environment}, cwd=tmp_path)
    try:
        slurm.until(lambda: len(list(sweep.glob("**/submission.json"))) == 4, 120)
        slurm.until(lambda: len(slurm.call("squeue", "-h", "-r", "-o", "%i").split()) == 6, 30)
        assert "besides, shards: 2 pending" in slurm.jobs("status", str(sweep)) and waiting.poll() is None
        assert "cancelled 6 runs" in slurm.jobs("cancel", str(sweep))
        assert waiting.wait(60) == 1
    finally:
        waiting.kill()
