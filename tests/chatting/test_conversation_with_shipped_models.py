"""`psychocounsel.chat` with models in this process: replies, rewards and ratings equal those computed in other ways."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from psychocounsel.annotation.scores.rules import rate_by_rules
from psychocounsel.asking.in_process import Transformers
from psychocounsel.asking.language_model import Ask
from psychocounsel.reward.local_model import LocalScorer
from tests.support.chats import converse, rows
from tests.support.harness import TINY

ONE, TWO = "I cannot sleep since my father died.", "My sister says that I should be over it."
SHORT = "replies.max_tokens=12"


def ask(messages: list[dict[str, str]]) -> Ask:
    return Ask("s", tuple(messages), 0, "reply")


@pytest.mark.slow
def test_the_command_over_a_pipe_gives_the_replies_that_writers_give(tmp_path: Path) -> None:
    """The replies are equal for the same seeds, and the printed text equals the saved one."""
    command = [
        sys.executable,
        "-m",
        "psychocounsel.chat",
        SHORT,
        "replies.seed=3",
        "transcript=talk.jsonl",
        "annotator=rules",
    ]
    done = subprocess.run(command, input=f"{ONE}\n{TWO}\n", capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = rows(tmp_path / "talk.jsonl")

    writer = Transformers(name="w", model="builtin:tiny_dpo", temperature=0.7, max_tokens=12).open("writers")
    said = [{"role": "user", "content": ONE}]
    expected = [writer.submit(ask(said), 3).result().text.strip()]
    said += [{"role": "assistant", "content": expected[0]}, {"role": "user", "content": TWO}]
    expected.append(writer.submit(ask(said), 4).result().text.strip())
    writer.close()
    replies = [row["replies"][0] for row in (first, second)]
    assert [reply["text"] for reply in replies] == expected and expected[0] != expected[1]
    assert [reply["seed"] for reply in replies] == [3, 4]

    said.append({"role": "assistant", "content": expected[1]})
    scores = LocalScorer.load("builtin:tiny_reward").score([said[:2], said])
    assert [reply["reward"]["tiny"] for reply in replies] == pytest.approx(scores.tolist(), abs=1e-4)
    rated = {name: each.rating for name, each in rate_by_rules(ONE, expected[0]).items()}
    assert replies[0]["ratings"] == {"rules": rated}

    printed = done.stdout.splitlines()
    assert next(line for line in printed if line.startswith("tiny_dpo> ")) == f"tiny_dpo> {expected[0]}"
    assert f"  reward tiny: {scores[0]:.3f}" in printed
    assert "not a therapist" in done.stderr and "therapist" not in done.stdout.replace(expected[0], "").replace(
        expected[1], ""
    )


def test_the_likeliest_reply_is_that_of_transformers_own_generation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["model.path=builtin:tiny", "replies.temperature=0", SHORT, "replies.system_prompt=null", "reward=null"]
    assert converse(monkeypatch, f"{ONE}\n/save talk.jsonl\n", *options) == 0
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    lm = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    text = tokenizer.apply_chat_template([{"role": "user", "content": ONE}], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    written = lm.generate(prompt, do_sample=False, max_new_tokens=12, pad_token_id=0)[0, prompt.shape[1] :]
    (row,) = rows(tmp_path / "talk.jsonl")
    assert row["replies"][0]["text"] == tokenizer.decode(written, skip_special_tokens=True).strip()
    assert row["replies"][0]["reward"] == {}


def test_models_side_by_side_and_turns_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The second model reads 96 tokens: it drops the oldest turns and says so once; the first model drops none."""
    monkeypatch.chdir(tmp_path)
    small = "against=[{path: builtin:tiny, name: small, max_length: 96}]"
    lines = "".join(f"{ONE} Day {number}.\n" for number in range(4))
    options = [small, SHORT, "replies.system_prompt=null", "transcript=talk.jsonl"]
    assert converse(monkeypatch, lines, *options) == 0
    printed = capsys.readouterr().out
    assert printed.count("it does not see the oldest turns") == 1
    assert printed.index("small> ") < printed.index("oldest turns")
    kept = rows(tmp_path / "talk.jsonl")
    assert [[reply["model"] for reply in row["replies"]] for row in kept] == [["tiny_dpo", "small"]] * 4
    assert all(set(reply["reward"]) == {"tiny"} for row in kept for reply in row["replies"]), "both are shipped"


def test_a_foreign_model_is_scored_only_by_a_reward_that_is_named(
    monkeypatch: pytest.MonkeyPatch, small_model: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, names in ([], set()), (["reward=tiny"], {"tiny"}):
        where = f"/save {len(options)}.jsonl"
        assert converse(monkeypatch, f"{ONE}\n{where}\n", f"model.path={small_model}", SHORT, *options) == 0
        (row,) = rows(tmp_path / f"{len(options)}.jsonl")
        assert set(row["replies"][0]["reward"]) == names


def test_a_reply_can_be_stopped_and_watching_changes_nothing() -> None:
    writer = Transformers(name="w", model="builtin:tiny", max_tokens=12).open("writers")
    asked = ask([{"role": "user", "content": ONE}])
    whole, seen = writer.submit(asked, 5).result(), list[str]()
    assert writer.stream(asked, 5, lambda text: not seen.append(text)) == whole
    assert len(seen) == 12 and all(later.startswith(sooner) for sooner, later in pairwise(seen))
    stopped = writer.stream(asked, 5, lambda text: len(text) < len(seen[4]))
    assert (stopped.outcome, stopped.completion_tokens) == ("cut", 5)
    assert whole.text.startswith(stopped.text.rstrip("\ufffd"))
    writer.close()


def test_an_adapter_is_talked_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An adapter's replies differ from those of its base model."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    adapter = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    adapter.peft_config["default"].base_model_name_or_path = str(TINY)
    adapter.save_pretrained("adapter")
    AutoTokenizer.from_pretrained(TINY).save_pretrained("adapter")
    options = ["model.path=adapter", "against=[builtin:tiny]", SHORT, "transcript=talk.jsonl"]
    assert converse(monkeypatch, f"{ONE}\n", *options) == 0
    (row,) = rows(tmp_path / "talk.jsonl")
    first, second = row["replies"]
    assert (first["model"], second["model"]) == ("adapter", "tiny") and first["text"] != second["text"]
