"""Runs with a reference cache equal runs without one, compute values once, share them where allowed, and can be stopped."""

import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.dpo import DPO
from psychocounsel.data.group import Group
from psychocounsel.engine.reference_store import BUCKETS
from psychocounsel.engine.references import CachedReference, reference_identity
from psychocounsel.engine.step import Stepper
from psychocounsel.errors import UserError
from psychocounsel.storage.files import read_json
from psychocounsel.storage.locks import Lock
from tests.support.composed import check, compose
from tests.support.harness import ROOT, TINY, cli, make_stepper, metrics_of, random_groups, small_lm

SAID = re.compile(r"reference log-probabilities: (\d+) replies from the cache, (\d+) computed")
SHORT = [
    "debug=fast",
    "data.limit=40",
    "global_batch_size=16",
    "eval.limit=20",
]  # enough rows that both splits share buckets
SHARDED = ["zero=3", "cluster.processes=2", "zero.persistence_elements=0"]


# -- in this process


def cached_reference(cache: Path, stepper: Stepper, compute: Any, said: list[str]) -> CachedReference:
    config = check(compose([f"paths.cache={cache}", "global_batch_size=4"]))
    run: Any = SimpleNamespace(config=config, is_main=True, say=said.append)
    source: Any = SimpleNamespace(logprobs=compute)
    reference = CachedReference(run, stepper, source, lambda: None)
    reference.open("w")
    return reference


def one_by_one(stepper: Stepper, groups: list[Group]) -> list[list[np.ndarray]]:
    return [
        [stepper.per_token([Group("", group.prompt_ids, [reply])])[0][0] for reply in group.completions]
        for group in groups
    ]


@pytest.mark.usefixtures("in_process_training")
def test_cached_values_are_those_of_the_model(tmp_path: Path) -> None:
    stepper = make_stepper(small_lm(), DPO())
    stepper.main.train(False)
    groups = random_groups(30)
    for group, other in zip(groups[:10], groups[10:20], strict=True):
        group.prompt_ids = other.prompt_ids  # some prompts have two pairs
        group.completions[0] = other.completions[0]
    asked: list[Group] = []

    def compute(some: list[Group]) -> list[list[np.ndarray]]:
        asked.extend(some)
        return stepper.per_token(some)

    said: list[str] = []
    cold = cached_reference(tmp_path, stepper, compute, said)
    values = cold.logprobs(groups)
    cold.close()
    for row, expected in zip(values, one_by_one(stepper, groups), strict=True):
        for got, wanted in zip(row, expected, strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    assert sum(len(group.completions) for group in asked) == 50, "ten replies are in two pairs"
    assert len(asked) == 20, "all replies to a prompt are in one group"
    warm = cached_reference(tmp_path, stepper, lambda some: pytest.fail("computed again"), said)
    again = warm.logprobs(groups)
    warm.close()
    assert all(np.array_equal(a, b) for x, y in zip(values, again, strict=True) for a, b in zip(x, y, strict=True))
    with pytest.raises(UserError, match="DPO: the policy has changed"):
        warm.logprobs(groups)
    assert said == [
        "reference log-probabilities: 0 replies from the cache, 50 computed",
        "reference log-probabilities: 50 replies from the cache, 0 computed",
    ]


@pytest.mark.usefixtures("in_process_training")
def test_an_untrained_policy_is_evaluated_without_a_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its log-probabilities are the reference's, so margins are exactly zero before the first step."""
    stepper, groups = make_stepper(small_lm(), DPO()), random_groups(6)
    computed = stepper.accumulate(groups, train=False)[0]
    assert computed["rewards/margin"].sum != 0
    stepper.untrained = True
    monkeypatch.setattr(stepper.main.module, "forward", lambda batch: pytest.fail("a forward pass"))
    known = stepper.accumulate(groups, train=False)[0]
    assert known["rewards/margin"].sum == 0
    assert known["rewards/accuracy"].sum == 3


def identity(*overrides: str, weights: str = "w") -> dict[str, Any]:
    config = check(compose(list(overrides)))
    return reference_identity(config, weights, torch.device("cpu"))


LORA = "model.lora.rank=4"
BF16 = "model.dtype=bf16"


def test_references_that_compute_otherwise_have_folders_of_their_own() -> None:
    different = [
        identity(),
        identity(weights="other"),
        identity(BF16),
        identity(LORA, "model.quantise=nf4"),
        identity(LORA, "model.quantise=nf4", BF16),
    ]
    assert all(one != other for number, one in enumerate(different) for other in different[:number])
    written = ["algo=online_dpo", "reward=tiny", "algo.offline_fraction=0.5"]
    assert identity(*written)["temperature"] == identity("rollout.temperature=0.7")["temperature"] == 1.0
    assert identity(*written) != identity(*written, "rollout.temperature=0.7")


def test_references_that_compute_the_same_share_a_folder() -> None:
    same = [
        identity(),
        identity(LORA),
        identity("model.lora.rank=8", "zero=3"),
        identity("zero=2", "algo=kto", "seed=3"),
    ]
    assert all(one == same[0] for one in same)
    assert identity(BF16) == identity(BF16, "zero=1") == identity(BF16, "zero=3") == identity(BF16, LORA, "zero=2")


# -- whole runs


def train(run_dir: Path, model: Path, cache: Path, *overrides: str) -> tuple[list[dict[str, Any]], tuple[int, int]]:
    """Return the metrics of a short run, and the numbers of replies from the cache and computed."""
    result = cli(
        "train",
        *SHORT,
        f"model.path={model}",
        f"run_dir={run_dir}",
        *overrides,
        cwd=ROOT,
        PSYCHOCOUNSEL_CACHE=str(cache),
    )
    cached, computed = map(int, SAID.findall(result.stderr)[0])
    return metrics_of(run_dir), (cached, computed)


@pytest.mark.slow
def test_cold_and_warm_runs_are_equal_and_sharded_ones_share(small_model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cold, (none, rows) = train(tmp_path / "cold", small_model, cache, *SHARDED)
    assert none == 0 and rows > 30
    warm, counts = train(tmp_path / "warm", small_model, cache, *SHARDED)
    assert counts == (rows, 0)
    assert warm == cold, "bit for bit"
    alone, counts = train(tmp_path / "alone", small_model, cache)
    assert counts == (rows, 0)
    own, counts = train(tmp_path / "own", small_model, tmp_path / "other")
    assert counts == (0, rows)
    for got, wanted in zip(alone, own, strict=True):
        assert got["eval/loss"] == pytest.approx(wanted["eval/loss"], rel=1e-5)
    assert cold[0]["eval/accuracy"] == 0.5 and cold[0]["eval/margin"] == 0


@pytest.mark.slow
def test_what_changes_a_reference_or_a_row_is_computed_anew(small_model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def counts(name: str, *overrides: str, model: Path = small_model) -> tuple[int, int]:
        return train(tmp_path / name, model, cache, *overrides)[1]

    _, rows = counts("first")
    assert counts("lora", LORA) == (rows, 0)
    assert counts("longer", "max_length=2048", "micro_batch_tokens=4096") == (rows, 0), "the same tokens"
    assert counts("bf16", BF16) == (0, rows)
    assert counts("bf16 sharded", BF16, "zero=1") == (rows, 0), "every stage computes in the same dtype"
    assert counts("tiny", LORA, model=TINY) == (0, rows), "other weights"
    assert counts("nf4", LORA, "model.quantise=nf4", model=TINY) == (0, rows)
    assert counts("nf4 again", LORA, "model.quantise=nf4", "zero=1", model=TINY) == (rows, 0)
    template = tmp_path / "template.jinja"
    template.write_text((small_model / "chat_template.jinja").read_text() + "{# another #}")
    assert counts("same", f"model.chat_template={template}") == (rows, 0), "another template that gives the same tokens"
    assert counts("system", "model.system_prompt=Be kind.") == (0, rows)
    _, fresh = counts("cut", "max_length=200", "data.too_long=shorten")
    assert fresh > 0


@pytest.mark.slow
def test_jobs_that_start_together_compute_each_row_once(small_model: Path, tmp_path: Path) -> None:
    common = ["train", "debug=fast", f"model.path={small_model}", "data.limit=64"]
    common += ["max_steps=8", "global_batch_size=8", f"paths.cache={tmp_path / 'cache'}"]
    jobs = [[f"run_dir={tmp_path / str(seed)}", f"algo.beta=0.{seed}"] for seed in range(1, 5)]
    with ThreadPoolExecutor(len(jobs)) as pool:
        running = list(pool.map(lambda job: cli(*common, *job, cwd=ROOT), jobs))
    said = [SAID.findall(done.stderr)[0] for done in running]
    whole = {int(cached) + int(computed) for cached, computed in said}
    assert whole == {sum(int(computed) for _, computed in said)}


def reference_folder(cache: Path) -> Path:
    (folder,) = cache.glob("reference/*")
    return folder


@pytest.mark.slow
def test_a_run_that_waits_for_another_job_lives_and_can_be_stopped(small_model: Path, tmp_path: Path) -> None:
    cache, run_dir = tmp_path / "cache", tmp_path / "run"
    train(tmp_path / "first", small_model, cache)
    folder = reference_folder(cache)
    held = [Lock(folder / f"bucket-{bucket:02d}.lock") for bucket in range(BUCKETS)]
    assert all(lock.take() for lock in held)
    command = [*SHORT, f"model.path={small_model}", f"run_dir={run_dir}", f"paths.cache={cache}"]
    command += ["data.split_seed=1", "cluster.processes=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "psychocounsel.train", *command], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        assert any("another process that computes reference log-probabilities" in line for line in process.stderr)
        beats = [read_json(run_dir / "state.json")["heartbeat"]]
        deadline = time.monotonic() + 30
        while len(set(beats)) < 3 and time.monotonic() < deadline:
            time.sleep(0.2)
            beats.append(read_json(run_dir / "state.json")["heartbeat"])
        assert len(set(beats)) >= 3 and process.poll() is None, "the process waits and writes heartbeats"
        (run_dir / "stop").touch()
        assert process.wait(timeout=60) == 75
    finally:
        process.kill()
        for lock in held:
            lock.release()
    _, (_, computed) = train(run_dir, small_model, cache, "data.split_seed=1", "cluster.processes=2")
    assert computed > 0
