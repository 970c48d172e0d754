"""A system prompt from training to evaluation: recorded with the model, taken over by what follows, unseen by reward models."""

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from psychocounsel.asking.system_prompts import prompt_lines
from psychocounsel.data.group import read_groups
from psychocounsel.engine.checkpoints.model_folder import model_card
from psychocounsel.errors import USER_ERROR
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.storage.files import read_json
from tests.support.composed import checked
from tests.support.harness import cli
from tests.support.in_process import run_here
from tests.support.own_folder import write_own
from tests.support.trained import trained_run

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
    assert (
        f'Each conversation began with the system message "{KIND}".'
        in (home / "sft" / "model" / "README.md").read_text()
    )
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


@pytest.mark.slow
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


def test_a_strangers_record_is_a_text_or_refused(home: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(home / "sft" / "model", tmp_path / "theirs"))
    for content, said in (
        ('{"step": 1, "system_prompt": ["x"]}', "its system_prompt is not a text"),
        ("[1]", "holds a list instead of a mapping"),
        ("{", "is not valid JSON"),
    ):
        (model / "psychocounsel.json").write_text(content)
        for line in (f"train model.path={model}", f"evaluate evaluation=health model.path={model} against=null"):
            answer = run_here(line)
            assert answer.code == USER_ERROR and said in answer.stderr and answer.stderr.count("\n") == 1, answer.stderr
    (model / "psychocounsel.json").unlink()
    (model / "psychocounsel.json").mkdir()
    answer = run_here(f"train model.path={model}")
    assert answer.code == USER_ERROR and "cannot be read (Is a directory)" in answer.stderr


def test_a_strangers_prompt_controls_no_terminal_and_adds_nothing_to_the_card(home: Path, tmp_path: Path) -> None:
    prompt = "Hi\x1b[2J\u202e.\n\n## Licence\n\nCC0"
    config = checked("model.path=builtin:tiny")
    assert model_card(config, {"step": 1, "system_prompt": prompt}).count("\n## Licence") == 1
    model = Path(shutil.copytree(home / "sft" / "model", tmp_path / "theirs"))
    (model / "psychocounsel.json").write_text(json.dumps({"step": 1, "system_prompt": prompt}))
    (line,) = prompt_lines(checked("evaluation=health", f"model.path={model}", "against=null", name="evaluate"))
    assert line.isprintable() and "## Licence" in line


def test_the_prompt_of_a_confidential_training_is_sent_to_no_other_host(tmp_path: Path) -> None:
    run = trained_run(tmp_path / "run", f"model.system_prompt={KIND}", "data.confidential=true")
    (run / "model" / "psychocounsel.json").write_text(json.dumps({"step": 1, "system_prompt": KIND}))
    line = f"evaluate evaluation=health model.path={run} 'against={{path: http://other.example/v1, model: m}}'"
    answer = run_here(line)
    assert answer.code == USER_ERROR and "would send the system prompt of" in answer.stderr, answer.stderr
    assert " to other.example, but its training had data.confidential=true" in answer.stderr
    assert "other.example" not in run_here(f"{line} replies.system_prompt=builtin:short").stderr
    assert run_here(f"evaluate evaluation=health model.path={run} against=builtin:tiny").code == 0
