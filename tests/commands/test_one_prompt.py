"""A system prompt from training to evaluation: recorded with the model, taken over by what follows, unseen by reward models."""

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from psychocounsel.data.group import read_groups
from psychocounsel.errors import USER_ERROR
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.storage.files import read_json
from tests.support.harness import cli
from tests.support.own_folder import write_own

KIND = "Be kind."
_SMALL = ["data.limit=40", "eval.limit=2", "max_steps=1", "global_batch_size=4", "cluster.threads=1"]
_LISTENING = """
import json
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from psychocounsel.reward.base import RewardSettings, Scorer


@dataclass
class Listening(RewardSettings, Scorer):
    file: str = ""

    def open(self, device):
        return self

    def score(self, conversations, progress=iter):
        with Path(self.file).open("a") as file:
            file.writelines(json.dumps(list(conversation)) + "\\n" for conversation in conversations)
        return np.zeros(len(conversations), np.float32)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run `sft`, trained with a system prompt."""
    home = tmp_path_factory.mktemp("home")
    cli("train", "algo=sft", f"model.system_prompt={KIND}", *_SMALL, "run_dir=sft", cwd=home)
    return home


def test_a_run_records_its_prompt_and_the_next_takes_it_over(home: Path) -> None:
    about = home / "sft" / "model" / "psychocounsel.json"
    assert read_json(about)["system_prompt"] == KIND
    assert f"System message of every conversation: {KIND}" in (home / "sft" / "model" / "README.md").read_text()
    write_own(
        home / "my", "reward", "listening", _LISTENING, "_target_: listening.Listening\nname: listening\nfile: ''\n"
    )
    heard = home / "heard.jsonl"
    given = [
        "algo=online_dpo",
        "model.path=sft/model",
        "reward=listening",
        f"reward.file={heard}",
        *_SMALL,
        "algo.samples=2",
    ]
    cli("train", "--config-dir", "my", *given, "rollout.max_tokens=4", "run_dir=online", cwd=home)
    (shard,) = (home / "online" / "rounds" / "0000").glob("shard-*.parquet")
    prompts = [group.messages or [] for group in read_groups(shard)]
    assert prompts and all(prompt[0] == {"role": "system", "content": KIND} for prompt in prompts), "the policy sees it"
    scored = [json.loads(line) for line in heard.read_text().splitlines()]
    assert scored and all(conversation[0]["role"] == "user" for conversation in scored), "the reward model does not"
    assert read_json(home / "online" / "model" / "psychocounsel.json")["system_prompt"] == KIND


def test_an_evaluation_sends_it_and_names_who_was_trained_with_another(home: Path) -> None:
    given = ["evaluation=health", "model.path=sft", "against=builtin:tiny", "limit=2", "replies.max_tokens=4"]
    found = cli("evaluate", *given, "run_dir=health", "cluster.threads=1", cwd=home)
    said = found.stdout + found.stderr
    assert f'system prompt: "{KIND}", as in the training of sft' in said
    assert f'warning: tiny was trained with the system prompt none, and gets "{KIND}"' in said
    versions = pq.read_table(home / "health" / "replies.parquet")["prompt_version"].to_pylist()
    assert set(versions) == {hashlib.sha256(KIND.encode()).hexdigest()[:16]}


def test_a_reward_model_reads_its_own(home: Path) -> None:
    cli("train", "algo=reward", "model.system_prompt=Judge.", *_SMALL, "run_dir=reward", cwd=home)
    conversation = [{"role": "user", "content": "I cannot sleep."}, {"role": "assistant", "content": "Since when?"}]
    path = str(home / "reward" / "model")
    own, typed, none = (
        LocalScorer.load(path, **more) for more in ({}, {"system_prompt": "Judge."}, {"system_prompt": None})
    )
    (expected,) = none.score([[{"role": "system", "content": "Judge."}, *conversation]])
    assert own.score([conversation]) == typed.score([conversation]) == [expected] != none.score([conversation])


def test_a_run_of_an_earlier_version_goes_on_only_with_its_own_prompt(home: Path) -> None:
    """Earlier runs have no key model.system_prompt, and trained without one."""
    (home / "old").mkdir()
    for key, more in (("auto", []), ("null", ["model.system_prompt=null"])):
        given = [
            "algo=sft",
            "model.path=sft/model",
            *_SMALL,
            "eval.every=0",
            "checkpoint.every=1",
            f"run_dir=old/{key}",
            *more,
        ]
        cli("train", *given, cwd=home)
        config = home / "old" / key / "config.yaml"
        lines = [line for line in config.read_text().splitlines() if not line.startswith("  system_prompt:")]
        at = lines.index("data:") + 1
        config.write_text("\n".join([*lines[:at], "  system_prompt: null", *lines[at:]]) + "\n")
        again = [*given, "max_steps=2"]
        done = cli("train", *again, cwd=home, check_code=0 if more else USER_ERROR)
        assert more or "model.system_prompt" in done.stderr
