"""Rewards by servers equal those of the local scorer, and invalid rewards are errors."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from psychocounsel.data.group import read_groups
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.model.tokenizer import resolve_path
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.settings import config as configs
from tests.reward.test_local_model import CONVERSATIONS
from tests.support.answering import Reply, Server, dead_address, no_proxy, serving
from tests.support.composed import checked
from tests.support.harness import cli, metrics_of
from tests.support.vllm_classifier import serving_scores

__all__ = ["dead_address", "no_proxy"]
REWARD = Path(resolve_path("builtin:tiny_reward"))
CPU = torch.device("cpu")


class Model:
    """The shipped reward model, served as another project would: plain transformers, padded on the left."""

    def __init__(self, folder: Path = REWARD) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
        self.model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()

    def scores(self, ids: list[list[int]]) -> list[float]:
        batch = self.tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        with torch.no_grad():
            return self.model(**batch).logits[:, 0].tolist()

    def openrlhf(self, payload: Any, number: int) -> Any:
        ids = self.tokenizer(payload["query"], add_special_tokens=False, truncation=True, max_length=2048)["input_ids"]
        return {"rewards": self.scores(ids), "scores": [], "extra_logs": {}}

    def with_bos(self, payload: Any, number: int) -> Any:
        texts = [self.tokenizer.bos_token + text for text in payload["query"]]
        return self.openrlhf({"query": texts}, number)

    def vllm(self, payload: Any, number: int) -> Any:
        assert payload["use_activation"] is False
        rows = [{"index": index, "probs": [score]} for index, score in enumerate(self.scores(payload["input"]))]
        return {"object": "list", "data": rows[::-1]}


@pytest.fixture(scope="module")
def model() -> Model:
    return Model()


@pytest.fixture(scope="module")
def local() -> np.ndarray:
    return LocalScorer.load(str(REWARD)).score(CONVERSATIONS)


def settled(*overrides: str, name: str = "evaluate") -> DictConfig:
    """Return the checked configuration, as a command makes it."""
    return checked(*overrides, name=name)


def open_scorer(*overrides: str) -> Any:
    return configs.build(settled(*overrides), "reward").open(CPU)


def served(kind: str, *servers: Server | str, path: Path = REWARD) -> list[str]:
    addresses = ",".join(getattr(server, "address", server) for server in servers)
    return [f"reward={kind}_server", f"reward.addresses=[{addresses}]", f"reward.path={path}", "reward.retries=1"]


@pytest.mark.parametrize("kind", ["openrlhf", "vllm"])
@pytest.mark.parametrize("size", [1, 3, 64])
def test_rewards_by_a_server_equal_the_scorer_in_this_process(
    kind: str, size: int, model: Model, local: np.ndarray
) -> None:
    with serving(getattr(model, kind)) as first, serving(getattr(model, kind)) as second:
        scorer = open_scorer(*served(kind, first, second), f"reward.batch_size={size}")
        rewards = scorer.score(CONVERSATIONS)
        assert rewards.dtype == np.float32
        np.testing.assert_allclose(rewards, local, atol=2e-5)
        assert scorer.score([]).shape == (0,)
        assert len(first.asked) + len(second.asked) == 2 + -(-len(CONVERSATIONS) // size)
        route = {"openrlhf": "/get_reward", "vllm": "/classify"}[kind]
        assert {path for path, _ in first.asked} == {route}
        for texts in (payload["query"] for _, payload in first.asked if kind == "openrlhf"):
            assert all(text.count(model.tokenizer.bos_token) == 1 for text in texts)


def test_a_server_that_adds_bos_itself_is_sent_none(model: Model, local: np.ndarray) -> None:
    with serving(model.with_bos) as server:
        rewards = open_scorer(*served("openrlhf", server), "reward.send_bos=false").score(CONVERSATIONS)
        np.testing.assert_allclose(rewards, local, atol=2e-5)
        doubled = open_scorer(*served("openrlhf", server)).score(CONVERSATIONS)
        assert np.abs(doubled - local).max() > 1e-3, "otherwise this would prove nothing"


def test_normalised_as_in_this_process(model: Model, local: np.ndarray) -> None:
    with serving(model.openrlhf) as server:
        scorer = open_scorer(*served("openrlhf", server), "reward.normalise=true")
        rewards = scorer.score(CONVERSATIONS)
    expected = LocalScorer.load(str(REWARD), normalise=True).score(CONVERSATIONS)
    np.testing.assert_allclose(rewards, expected, atol=2e-5)
    np.testing.assert_allclose(scorer.unnormalised(rewards), local, atol=2e-5)


@pytest.mark.parametrize("openrlhf", [True, False])
def test_text_ends_where_the_model_is_read(openrlhf: bool, tmp_path: Path) -> None:
    """Some templates write a newline after the end-of-turn token, which OpenRLHF's models do not read."""
    folder = Path(shutil.copytree(REWARD, tmp_path / "reward"))
    template = (folder / "chat_template.jinja").read_text().replace("'<|end|>'", "'<|end|>\\n'")
    (folder / "chat_template.jinja").write_text(template)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | ({"value_head_prefix": "score"} if openrlhf else {})))
    with serving(Model(folder).openrlhf) as server:
        rewards = open_scorer(*served("openrlhf", server, path=folder)).score(CONVERSATIONS)
        assert all(text.endswith("<|end|>" if openrlhf else "<|end|>\n") for text in server.asked[-1][1]["query"])
    np.testing.assert_allclose(rewards, LocalScorer.load(str(folder)).score(CONVERSATIONS), atol=2e-5)


OPENRLHF = [
    (lambda rewards: {"rewards": rewards[1:]}, "0 rewards for 1 conversations"),
    (lambda rewards: {"rewards": [*rewards, 0.5]}, "2 rewards for 1 conversations"),
    (lambda rewards: {"rewards": [float("nan")]}, "a reward is nan"),
    (lambda rewards: {"rewards": [float("-inf")]}, "a reward is -inf"),
    (lambda rewards: {"rewards": [None]}, "a reward is not a number but NoneType"),
    (lambda rewards: {"rewards": ["0.5"]}, "a reward is not a number but str"),
    (lambda rewards: {"rewards": [True]}, "a reward is not a number but bool"),
    (lambda rewards: {"rewards": 0.5}, "the answer has no list of rewards"),
    (lambda rewards: [0.5], "the answer has no list of rewards"),
    (lambda rewards: Reply(body=b"not json"), "something other than JSON"),
]
VLLM = [
    (lambda rewards: {"data": [{"index": 0, "probs": [0.1, 0.9]}]}, "the model has 2 labels"),
    (lambda rewards: {"data": [{"index": 0, "probs": [float("nan")]}]}, "a reward is nan"),
    (lambda rewards: {"data": []}, "0 rewards for 1 conversations"),
    (lambda rewards: {"data": [{"index": 0, "embedding": [0.1]}]}, "the answer holds no classifier scores"),
    (lambda rewards: Reply(404), "404 Not Found; is it the right kind of server"),
]


@pytest.mark.parametrize(
    ("kind", "answer", "said"), [("openrlhf", *case) for case in OPENRLHF] + [("vllm", *case) for case in VLLM]
)
def test_what_is_no_reward_is_an_error_before_work_starts(kind: str, answer: Any, said: str) -> None:
    with serving(lambda payload, number: answer([0.5])) as server:
        with pytest.raises(UserError) as caught:
            open_scorer(*served(kind, server))
        assert said in str(caught.value) and server.address in str(caught.value) and "\n" not in str(caught.value)


def test_no_server_is_one_line_before_work_starts(dead_address: str, tmp_path: Path) -> None:
    settings = ["algo=online_dpo", *served("openrlhf", dead_address), "run_dir=run", "cluster.threads=1"]
    result = cli("train", *settings, cwd=tmp_path, check_code=USER_ERROR)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        f"error: reward.addresses: no server answers ({dead_address}: connection refused): start the servers"
    )
    assert not (tmp_path / "run" / "rounds").exists()


def test_a_conversation_too_long_for_the_server_is_refused_here(model: Model) -> None:
    with serving(model.openrlhf) as server:
        scorer = open_scorer(*served("openrlhf", server), "reward.max_length=30")
        long = [{"role": "user", "content": "I feel alone. " * 20}, {"role": "assistant", "content": "Since when?"}]
        with pytest.raises(UserError, match=r"conversation 1: has \d+ tokens, more than the limit of 30"):
            scorer.score([CONVERSATIONS[1], long])
        with pytest.raises(UserError, match="conversation 0: does not end with a reply"):
            scorer.score([long[:1]])
        assert len(server.asked) == 1


@pytest.mark.slow
def test_online_dpo_by_a_server_has_the_rewards_of_the_scorer_in_this_process(
    model: Model, small_model: Path, tmp_path: Path
) -> None:
    def train(run: str, *reward: str) -> list[float]:
        settings = [
            "algo=online_dpo",
            f"model.path={small_model}",
            "max_steps=2",
            "global_batch_size=4",
            "algo.samples=2",
        ]
        settings += ["eval.limit=3", "rollout.max_tokens=12", "data.limit=100", "cluster.threads=1", f"run_dir={run}"]
        cli("train", *settings, *reward, cwd=tmp_path)
        shards = sorted((tmp_path / run / "rounds").glob("*/shard-*.parquet"))
        assert len(shards) == 2
        return [each.reward or 0.0 for shard in shards for group in read_groups(shard) for each in group.completions]

    with serving(model.openrlhf) as server:
        by_server = train("server", *served("openrlhf", server), "reward.batch_size=3")
        assert len(server.asked) > 4
    np.testing.assert_allclose(by_server, train("local", "reward=local", f"reward.path={REWARD}"), atol=2e-5)
    pairs = zip(metrics_of(tmp_path / "server"), metrics_of(tmp_path / "local"), strict=True)
    assert all(mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4) for mine, theirs in pairs if "loss" in mine)


@pytest.mark.slow
@pytest.mark.proof  # tests/model/test_real_model_in_use.py compares a real model's
def test_rewards_by_vllm_equal_the_scorer_in_this_process(local: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    with serving_scores(REWARD, tmp_path / "vllm.log") as address:
        scorer = open_scorer(*served("vllm", address), "reward.batch_size=4")
        np.testing.assert_allclose(scorer.score(CONVERSATIONS), local, atol=1e-4)
        wrong = served("openrlhf", address)
        with pytest.raises(UserError, match="404 Not Found"):
            open_scorer(*wrong)
