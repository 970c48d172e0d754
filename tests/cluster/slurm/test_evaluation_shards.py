"""`evaluate evaluation=winrate` on a real SLURM: an array shares replies and verdicts, and a last job makes the figures."""

import json
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
