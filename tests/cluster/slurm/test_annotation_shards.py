"""`annotate` on a real SLURM: one command; an array cleans speeches, a job compares them, an array asks, a last job ends it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from psychocounsel.errors import USER_ERROR
from tests.support.annotating import calls, model_server, models, speeches, tables
from tests.support.harness import cli
from tests.support.slurm_cluster import Cluster, start

COUNT, PER_SPEECH, SHARDS = 9, 2, 2
SLURM = ["cluster=slurm_cpu", "cluster.cpus_per_process=1", "cluster.stop_before_limit=1m", f"shards={SHARDS}"]


@pytest.fixture(scope="module")
def slurm(small_model: Path) -> Iterator[Cluster]:
    yield from start(small_model)


def jobs_of(out: Path) -> list[str]:
    """Return the jobs of all submissions below a dataset."""
    return [job for file in sorted(out.rglob("submission.json")) for job in json.loads(file.read_text())["jobs"]]


@pytest.mark.slow
def test_cancelled_shards_are_resubmitted_each_after_what_it_waits_for(slurm: Cluster, tmp_path: Path) -> None:
    speeches(tmp_path / "speeches.jsonl", COUNT)
    out = tmp_path / "shared"
    with model_server() as server:
        given = ["annotate", "speeches=speeches.jsonl", "speeches.license=cc0-1.0", *models(server), f"out={out}"]
        cli(*given, *SLURM, "+cluster.sbatch.hold=true", cwd=tmp_path, **slurm.environment)
        slurm.jobs("cancel", str(out))
        assert slurm.jobs("resubmit", str(out)).count("submitted ") == 3
    first, shards, last = jobs_of(out / "shards")[-2:] + jobs_of(out)[-1:]
    waits = slurm.call("squeue", "-h", "-a", "-o", "%F %E")
    assert f"{shards} afterok:{first}" in waits and f"{last} afterok:{shards}" in waits
    assert "cancelled 4 runs" in slurm.jobs("cancel", str(out))


@pytest.mark.slow
def test_shards_make_the_data_set_of_one_process(slurm: Cluster, tmp_path: Path) -> None:
    speeches(tmp_path / "speeches.jsonl", COUNT)
    with model_server(0.3) as server:
        given = ["annotate", "speeches=speeches.jsonl", "speeches.license=cc0-1.0", *models(server)]
        given += [f"replies.per_speech={PER_SPEECH}", "pairs.test_fraction=0.2"]
        out = tmp_path / "shared"
        shared = [*SLURM, "clean_in_shards_above_mb=0"]
        planned = cli(*given, *shared, f"out={out}", "dry_run=script", cwd=tmp_path, **slurm.environment).stdout
        assert "--array=0-1" in planned and planned.count("#!/bin/bash") == 4 and "scores: 18 calls" in planned
        assert not out.exists()
        submitted = cli(*given, *shared, f"out={out}", cwd=tmp_path, **slurm.environment).stdout
        assert submitted.count("submitted ") == 4 and submitted.count("submitted array of 2") == 2
        again = cli("annotate", f"out={out}", cwd=tmp_path, **slurm.environment).stdout
        assert "submitted before" in again and len(jobs_of(out)) == 4
        slurm.until(lambda: len(server.answered) > 10, 120, out)
        array = jobs_of(out / "shards")[-1]
        slurm.call("scancel", "--signal=USR1", "--batch", array)  # both are asked to stop, and requeued
        assert slurm.ended(out) == ["finished"]
        assert set(slurm.states(out / "shards")) == {"finished"} and len(slurm.states(out / "shards")) == 2 * SHARDS + 1
        cleaned = [(out / "shards" / f"cleaning-00{index}" / "steps" / "speeches.json") for index in range(SHARDS)]
        assert [json.loads(file.read_text())["figures"]["rows"] for file in cleaned] == [COUNT, 0]
        bought = calls(server)
        assert len(set(bought)) == COUNT * PER_SPEECH * 2
        keys = [json.loads(line)["key"] for file in (out / "answers").glob("*.jsonl") for line in file.open()]
        assert len(keys) == len(set(keys)) == COUNT * PER_SPEECH * 2, "each answer exactly once"
        cli(*given, f"out={tmp_path}/whole", "cluster.threads=1", cwd=tmp_path)
        assert tables(out) == tables(tmp_path / "whole")
        assert not list((out / "shards").rglob("*.parquet"))


@pytest.mark.slow
def test_speeches_are_not_removed_while_jobs_wait(slurm: Cluster, tmp_path: Path) -> None:
    speeches(tmp_path / "speeches.jsonl", COUNT)
    (tmp_path / "ids.txt").write_text("0" * 16)
    out = tmp_path / "out"
    given = ["annotate", "speeches=speeches.jsonl", "speeches.license=cc0-1.0", f"out={out}"]
    cli(*given, "steps=[speeches]", cwd=tmp_path)
    steps = "steps=[speeches,replies,scores,pairs,card]"
    cli(*given, steps, *SLURM, "cluster.sbatch={begin: now+1hour}", cwd=tmp_path, **slurm.environment)
    try:
        remove = ["annotate", f"out={out}", "remove=ids.txt"]
        refused = cli(*remove, cwd=tmp_path, check_code=USER_ERROR, **slurm.environment).stderr
        assert f"jobs cancel {out}`" in refused
        slurm.call("scancel", jobs_of(out)[-1])  # its shards still wait
        refused = cli(*remove, cwd=tmp_path, check_code=USER_ERROR, **slurm.environment).stderr
        assert f"jobs cancel {out}`" in refused
    finally:
        assert "cancelled 2 runs" in slurm.jobs("cancel", str(out))


def test_servers_outside_the_cluster_need_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "OPENAI_API_KEY", "x")
    given = ["annotate", "cluster=slurm_cpu", "annotator=openai", "annotator.model=m", "accept_terms=[training-m]"]
    given += [f"out={tmp_path}/out"]
    refused = cli(*given, cwd=tmp_path, check_code=USER_ERROR)
    assert "annotator.addresses: api.openai.com is outside the cluster; add cluster.internet=true" in refused.stderr
    assert not (tmp_path / "out").exists()
