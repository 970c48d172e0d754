"""vLLM on CPU writes the same replies as the policy, in training processes and in servers, before and after new weights."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from psychocounsel.data.group import Group, read_groups
from psychocounsel.remote.server_access import free_port
from tests.support.harness import ROOT, TINY, cli, metrics_of, small_lm
from tests.support.real_model import smollm2
from tests.support.started import started

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("vllm")]

KEY = {"PSYCHOCOUNSEL_ROLLOUT_KEY": "a key of ours"}
SMALL = ("data.limit=200", "global_batch_size=8", "rollout.shard_prompts=4", "eval.every=0", "algo.warmup=0")
REAL = ("model=local", "model.dtype=fp32", "reward=tiny", "max_length=256", "rollout.max_tokens=12", "algo.samples=2")
REAL += ("data.limit=200", "eval.limit=2", "eval.every=0", "algo.warmup=0", "micro_batch_tokens=1024")
REAL += ("global_batch_size=4", "rollout.shard_prompts=2")


def written(place: Path, *overrides: str, processes: int = 1) -> list[dict[str, Any]]:
    """Return the output of each rank of tests/support/vllm_check.py.

    Ranks find each other by a file in `place`. A failing rank ends the others.
    """
    ranks, said = [], []
    for rank in range(processes):
        meet = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        environment = {**os.environ, **meet, "PSYCHOCOUNSEL_RENDEZVOUS": f"file://{place}/store"}
        said.append(place / f"rank-{rank}.json")
        command = [sys.executable, "-m", "tests.support.vllm_check", *overrides]
        with said[-1].open("wb") as out:
            ranks.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out))
    deadline = time.monotonic() + 400
    try:
        while any(rank.poll() is None for rank in ranks):
            assert not any(rank.poll() for rank in ranks) and time.monotonic() < deadline, "a rank failed or hangs"
            time.sleep(0.2)
    finally:
        for rank in ranks:
            rank.kill()
    return [json.loads(file.read_text().splitlines()[-1]) for file in said]


@pytest.mark.parametrize(
    ("processes", "overrides"),
    [
        pytest.param(1, [], marks=pytest.mark.proof),
        (2, ["zero=3", "model.lora.rank=4"]),
        (1, ["model=local", "model.path=SMOLLM2", "model.dtype=fp32", "reward=tiny"]),
    ],
    ids=["alone", "partitioned-with-adapter", "real-model"],
)
def test_greedy_replies_and_logprobs_are_those_of_hf_before_and_after_new_weights(
    processes: int, overrides: list[str], tmp_path: Path
) -> None:
    real = smollm2() if "model.path=SMOLLM2" in overrides else None
    for rank in written(tmp_path, *(each.replace("SMOLLM2", str(real)) for each in overrides), processes=processes):
        for moment, version in (("before", 0), ("after", 5)):
            assert rank[moment]["same"] and rank[moment]["texts"], f"{moment}: other tokens than transformers writes"
            assert rank[moment]["difference"] < 1e-4
            assert rank[moment]["versions"] == [version]
        assert rank["before"]["ids"] != rank["after"]["ids"], "the weights have changed"
        assert rank["drawn"]["difference"] < 1e-4
        assert len({tuple(ids) for ids in rank["drawn"]["ids"]}) == 12, "each sample is drawn separately"
        assert rank["again"] and rank["other"], "the seed determines the replies"
        assert rank["threads"], "training has as many threads as before"
        assert rank["nothing"] == (3 if rank["rank"] == 0 else 0)


def replies_of(run: Path) -> list[Group]:
    return [group for file in sorted(run.glob("rounds/*/shard-*.parquet")) for group in read_groups(file)]


def tokens(groups: list[Group]) -> list[list[int]]:
    return [reply.ids.tolist() for group in groups for reply in group.completions]


@pytest.fixture(scope="module")
def online_dpo() -> tuple[str, ...]:
    """Return a command that trains SmolLM2 in two rounds of two shards."""
    return ("train", "algo=online_dpo", *REAL, f"model.path={smollm2()}", "max_steps=2")


@pytest.fixture(scope="module")
def alone(online_dpo: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with an engine in its process, killed after its first step and resumed."""
    run = tmp_path_factory.mktemp("vllm") / "run"
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 1}"
    command = (*online_dpo, "rollout=vllm", f"run_dir={run}", kill)
    cli(*command, check_code=137, PYTHONPATH=str(ROOT))
    before = {file: file.read_bytes() for file in run.glob("rounds/*/shard-*.parquet")}
    assert len(before) == 2, "a round of two shards"
    cli(*command, PYTHONPATH=str(ROOT))
    assert all(file.read_bytes() == content for file, content in before.items()), "no finished shard is repeated"
    return run


def test_rounds_are_written_by_the_weights_of_their_beginning(alone: Path) -> None:
    files = sorted(alone.glob("rounds/*/shard-*.parquet"))
    versions = [{reply.policy_version for group in read_groups(file) for reply in group.completions} for file in files]
    assert versions == [{0}, {0}, {1}, {1}]


def servers(run: Path) -> list[str]:
    return subprocess.run(["pgrep", "-f", f"rollout.server {run} "], capture_output=True, text=True).stdout.split()


def test_what_a_server_that_dies_or_hangs_was_to_write_is_written_all_the_same(
    online_dpo: tuple[str, ...], alone: Path, tmp_path: Path
) -> None:
    """A server that dies in the first round and hangs in the second still yields the replies of an engine in the process."""
    run = tmp_path / "run"
    one_by_one = "rollout.max_sequences=2"  # one prompt at a time, so that prompts remain when the server is lost
    server = ("rollout=vllm_server", one_by_one, "rollout.timeout_seconds=15")
    signal_server = "{_target_: tests.support.killer.SignalServer, event: %s, step: %d, signal: %s}"
    dies = f"+callbacks.dies={signal_server % ('shard_done', 0, 'SIGKILL')}"
    hangs = f"+callbacks.hangs={signal_server % ('sync_done', 1, 'SIGSTOP')}"
    said = cli(*online_dpo, *server, f"run_dir={run}", dies, hangs, minutes=9, PYTHONPATH=str(ROOT))
    assert [(run / name).read_text() for name in ("SIGKILL", "SIGSTOP")] == ["127.0.0.1"] * 2, (
        "others must not reach it"
    )
    assert said.stdout.count("restarting it") >= 2
    assert tokens(replies_of(run)) == tokens(replies_of(alone))
    time.sleep(2)
    assert not servers(run), "servers end with the run"


@pytest.mark.proof
@pytest.mark.parametrize(
    ("transfer", "number", "count"),
    [
        ("collective", "SIGKILL", 2),
        ("collective", "SIGSTOP", 1),
        ("http", "SIGKILL", 1),
    ],
)
def test_a_server_that_is_lost_while_it_is_sent_weights_does_not_hold_up_the_run(
    transfer: str, number: str, count: int, online_dpo: tuple[str, ...], alone: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = (*online_dpo, "rollout=vllm_server", f"rollout.transfer={transfer}")
    interrupt = f"+callbacks.interrupt={{_target_: tests.support.killer.KillServer, signal: {number}}}"
    more = (f"rollout.servers={count}", "rollout.timeout_seconds=15", interrupt, f"run_dir={run}")
    said = cli(*command, *more, minutes=9, PYTHONPATH=str(ROOT))
    assert (run / "interrupted").exists() and "restarting it" in said.stdout
    assert ("is skipped for now" in said.stderr) == (count > 1), (
        "the other server takes over, or the weights are sent again"
    )
    assert tokens(replies_of(run)) == tokens(replies_of(alone))


@pytest.mark.proof
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="each worker has a core of its own")
def test_weights_come_to_every_worker_of_a_server_by_one_group(tmp_path: Path) -> None:
    run, cores = tmp_path / "run", sorted(os.sched_getaffinity(0))
    server = ("rollout=vllm_server", "rollout.transfer=collective", "rollout.tensor_parallel=2")
    command = ("train", "algo=grpo", *SMALL, *server, "max_steps=2", "eval.limit=4", f"run_dir={run}")
    cli(*command, VLLM_CPU_OMP_THREADS_BIND=f"{cores[0]}|{cores[1]}")
    differences = [line["rollout/logprob_difference_max"] for line in metrics_of(run) if line["step"]]
    assert len(differences) == 2 and max(differences) < 1e-3, "trainer and server have the same weights in each round"


def test_a_server_is_sent_the_adapter_alone(tmp_path: Path) -> None:
    """The server loads the base from disk; the figures show that trainer and server have the same adapter in each round."""
    run = tmp_path / "run"
    command = ("train", "algo=grpo", *SMALL, "rollout=vllm_server", "model.lora.rank=4", "algo.lr=0.01")
    cli(*command, "max_steps=3", "eval.limit=4", f"run_dir={run}")
    differences = [line["rollout/logprob_difference_max"] for line in metrics_of(run) if line["step"]]
    assert len(differences) == 3 and max(differences) < 1e-3
    assert [line["rollout/staleness"] for line in metrics_of(run) if line["step"]] == [0, 0, 0]


# model.norm is a parameter of its own in vLLM; k_proj is one of three that vLLM joins to qkv_proj
WITHOUT = "without: [model.norm.weight, model.layers.1.self_attn.k_proj.weight]"
TOLD = "vLLM took no weights, or only a part, for model.layers.1.self_attn.qkv_proj, model.norm.weight: "
NOISY = "noisy: [model.embed_tokens.weight]"


@pytest.mark.parametrize(
    ("rollout", "falsified", "told"),
    [
        ("vllm", WITHOUT, f"error: rollout=vllm: {TOLD}"),
        pytest.param("vllm_server", WITHOUT, TOLD, marks=pytest.mark.proof),
        ("vllm", NOISY, "error: rollout: the replies of step 0 were written with other weights than the policy's"),
    ],
    ids=["engine-without-some", "server-without-some", "noisy"],
)
def test_wrong_weights_are_refused_at_the_first_round(rollout: str, falsified: str, told: str, tmp_path: Path) -> None:
    callback = f"+callbacks.wrong={{_target_: tests.support.wrong_weights.WrongWeights, {falsified}}}"
    command = ("train", "algo=online_dpo", *SMALL, f"rollout={rollout}", "max_steps=1", callback)
    refused = cli(*command, f"run_dir={tmp_path / 'run'}", check_code=2, PYTHONPATH=str(ROOT))
    assert told in refused.stderr and "use rollout=hf" in refused.stderr
    assert not list((tmp_path / "run/rounds").glob("*/groups.parquet")), "nothing is learned from wrong weights"


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Yield the address of a server started by a user."""
    port = free_port()
    command = [sys.executable, "-m", "psychocounsel.serve", "--port", str(port), "model=tiny"]
    address = f"http://127.0.0.1:{port}"
    well = {"version": None}
    with started(command, f"{address}/health", lambda answer: answer.json() == well, env={**os.environ, **KEY}):
        yield address


def test_a_server_says_nothing_without_its_key_nor_by_other_weights_than_asked_for(
    address: str, tmp_path: Path
) -> None:
    settings = {"n": 1, "temperature": 1.0, "max_tokens": 2}
    asked = {"version": 0, "prompts": [[1, 2]], "settings": [settings], "stop": [2]}
    weights = [f"/weights/{name}" for name in ("begin", "join", "piece", "broadcast", "end?version=0")]
    for route in ("/generate", *weights):
        assert httpx.post(address + route, json=asked).status_code == 401
    key = {"Authorization": "Bearer a key of ours"}
    answer = httpx.post(f"{address}/generate", json=asked, headers=key)
    assert answer.status_code == 409 and "version None, not 0" in answer.text
    nobody = {"host": "127.0.0.1", "port": 9}
    begun = httpx.post(f"{address}/weights/begin", json=nobody, headers=key, timeout=60).json()
    assert begun == {"workers": 1, "slots": 768, "device": "cpu", "adapter_rank": 0, "reached": False}
    common = ("train", "algo=online_dpo", *SMALL, "rollout=vllm_server", f"rollout.addresses=[{address}]")
    wrong = cli(*common, check_code=2, cwd=tmp_path, PSYCHOCOUNSEL_ROLLOUT_KEY="another")
    assert "does not accept the key in PSYCHOCOUNSEL_ROLLOUT_KEY" in wrong.stderr
    adapted = cli(*common, "model.lora.rank=4", check_code=2, cwd=tmp_path, **KEY)
    assert "was started with model.lora.rank=null, but this run has 4: start it with the model.*" in adapted.stderr
    missing = cli(*common, check_code=2, cwd=tmp_path)
    assert "the servers' key is unknown" in missing.stderr


def test_a_round_is_written_ahead_by_the_weights_of_the_round_before(address: str, tmp_path: Path) -> None:
    command = ("train", "algo=online_dpo", *SMALL, "max_steps=4", "rollout=vllm_server", "rollout.max_staleness=1")
    cli(*command, f"rollout.addresses=[{address}]", f"run_dir={tmp_path / 'run'}", **KEY)
    files = sorted((tmp_path / "run").glob("rounds/*/shard-*.parquet"))
    versions = [{reply.policy_version for group in read_groups(file) for reply in group.completions} for file in files]
    assert versions == [{0}, {0}, {0}, {0}, {1}, {1}, {2}, {2}]
    ahead = ("algo=ppo", "algo.importance_cap=null", "rollout=vllm_server", "rollout.max_staleness=2")
    refused = cli("train", *ahead, check_code=2)
    assert "algo.importance_cap" in refused.stderr
    renamed = cli("train", "algo=ppo", "rollout=vllm_server", "rollout.overlap=true", check_code=2)
    assert renamed.stderr == "error: rollout.overlap=true: was renamed to rollout.max_staleness\n"


def test_heads_that_vllm_has_no_attention_for_are_named_before_training(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    model, run = tmp_path / "model", tmp_path / "run"
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    small_lm(vocab_size=len(tokenizer), max_position_embeddings=4096).save_pretrained(model)
    tokenizer.save_pretrained(model)
    command = (
        "train",
        "algo=online_dpo",
        "reward=tiny",
        "rollout=vllm",
        *SMALL,
        f"model.path={model}",
        f"run_dir={run}",
    )
    refused = cli(*command, check_code=2)
    assert "heads have 12 dimensions" in refused.stderr and "use rollout=hf" in refused.stderr
    assert not list(run.glob("rounds/*"))
