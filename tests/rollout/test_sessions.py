"""Sessions with simulated clients: their tokens, their ends, what each turn earns, and runs that learn from them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from psychocounsel.algo.ppo import gae, turn_ends
from psychocounsel.data.group import Completion, Group, read_groups, write_groups
from psychocounsel.data.messages import Message
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.engine.rounds.scoring import Scoring, earned_by_turns
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.metrics.replies import reply_figures, sample_page
from psychocounsel.model.packed import Policy
from psychocounsel.reward.base import Scorer
from psychocounsel.rollout import base
from psychocounsel.rollout.base import Rollout, Sampling
from psychocounsel.rollout.clients import SimulatedClients
from psychocounsel.rollout.hf import HFRollout
from psychocounsel.rollout.sessions import SessionRollout
from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.files import read_json
from tests.evaluation.session.counsellors import script, write_scripts
from tests.support.harness import TINY, cli, metrics_of, world
from tests.support.own_folder import write_own

LONG = 1 << 30  # tokens that no session reaches


class Answering(SimulatedClients):
    """Clients whose words depend on the last reply; `said` holds the conversations that they heard."""

    def __init__(self, words: Callable[[Sequence[Message]], str | None]) -> None:
        self.words, self.said = words, list[list[Message]]()

    def answers(self, conversations: Sequence[Sequence[Message]], seeds: Sequence[int]) -> list[str | None]:
        self.said += map(list, conversations)
        return [self.words(conversation) for conversation in conversations]


def by_length(conversation: Sequence[Message]) -> str:
    return f"You wrote {len(conversation[-1]['content'].split())} words. It is turn {len(conversation)}."


@cache
def policy() -> Any:
    return AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()


@cache
def chat(template: str = "") -> ChatFormat:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    tokenizer.chat_template = template or tokenizer.chat_template
    return ChatFormat(tokenizer, {}, "tiny")


def prompts(*words: str) -> list[Group]:
    messages: list[list[Message]] = [[{"role": "user", "content": text}] for text in words]
    ids = chat().encode_prompts([chat().render(each) for each in messages])
    return [Group(text, prompt, messages=said) for text, prompt, said in zip(words, ids, messages, strict=True)]


def held(
    clients: SimulatedClients,
    turns: int = 3,
    template: str = "",
    groups: Sequence[Group] | None = None,
    **sampling: Any,
) -> list[Group]:
    """Return two sessions with each of two clients, or with those of `groups`."""
    settings = {"n": 2, "temperature": 1.0, "max_tokens": 200, "max_length": LONG, "seed": 3} | sampling
    writer = HFRollout(Policy(policy(), "tiny"), chat().tokenizer, chat().ends(), 64)
    rollout = SessionRollout(writer, chat(template), turns, world(), lambda: clients)
    rollout.sync(7)
    return rollout.generate(groups or prompts("I can't sleep.", "My mother died."), Sampling(**settings))


@cache
def some_sessions() -> list[Group]:
    return held(Answering(by_length))


def every(groups: Sequence[Group]) -> list[tuple[Group, Completion]]:
    return [(group, completion) for group in groups for completion in group.completions]


def test_a_session_is_the_conversation_that_the_template_writes() -> None:
    for group, completion in every(some_sessions()):
        assert completion.session is not None
        roles = [message["role"] for message in completion.session]
        assert roles == ["assistant", "user"] * (len(roles) // 2) + ["assistant"]
        conversation = [*(group.messages or []), *completion.session]
        text = chat().render(conversation[:-1], conversation[-1]["content"]).text
        written = chat().tokenizer.decode([*group.prompt_ids, *completion.ids])
        assert text.startswith(written)
        assert len(text) - len(written) < 20, "all but what follows the last reply"
        assert completion.policy_version == 7


def test_turns_of_the_policy_alone_are_trained_and_have_the_logprobs_of_the_whole_sequence() -> None:
    turns = 0
    for group, completion in every(some_sessions()):
        ids = torch.from_numpy(np.concatenate([group.prompt_ids, completion.ids]).astype(np.int64))[None]
        with torch.no_grad():
            logprobs = policy()(ids).logits.log_softmax(-1)[0]
        own = range(len(group.prompt_ids), ids.shape[1])
        expected = torch.stack([logprobs[place - 1, ids[0, place]] for place in own]).numpy()
        trained = completion.trained if completion.trained is not None else np.ones(len(completion.ids), bool)
        np.testing.assert_allclose(completion.logprobs, expected[trained], atol=1e-4)
        said = [message["content"] for message in completion.session or [] if message["role"] == "assistant"]
        starts = np.cumsum([0, *completion.turn_lengths])
        decoded = [
            chat().tokenizer.decode(completion.trained_ids[start:end], skip_special_tokens=True)
            for start, end in pairwise(starts)
        ]
        assert decoded == said
        turns += len(said)
    assert turns > 4, "some session has several turns"


def test_the_client_hears_the_conversation_without_the_system_message() -> None:
    clients = Answering(by_length)
    system: Message = {"role": "system", "content": "Be kind."}
    (group,) = prompts("I can't sleep.")
    held(clients, groups=[replace(group, messages=[system, *(group.messages or [])])])
    assert all(heard[0]["content"] == "I can't sleep." and heard[-1]["role"] == "assistant" for heard in clients.said)


@pytest.mark.parametrize(
    ("words", "more", "reason"),
    [
        (by_length, {"max_tokens": 2}, "length"),
        (lambda conversation: None, {}, "left"),
        (by_length, {"max_length": 90}, "room"),
    ],
    ids=["cut", "left", "full"],
)
def test_a_session_ends_with_a_cut_reply_when_the_client_leaves_or_without_room(
    words: Any, more: dict[str, int], reason: str
) -> None:
    ended = [completion for _, completion in every(held(Answering(words), turns=9, **more))]
    assert {completion.finish_reason for completion in ended} <= {reason, "length"}
    assert reason in {completion.finish_reason for completion in ended}
    if reason != "room":
        assert {len(completion.turn_lengths) for completion in ended} == {1}


def test_no_session_is_longer_than_its_limit() -> None:
    for group, completion in every(held(Answering(by_length), turns=9, max_length=150)):
        assert len(group.prompt_ids) + len(completion.ids) <= 150


def test_a_template_that_changes_earlier_turns_is_refused() -> None:
    template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if loop.last or m.role == 'user' %}{{ m.content }}{% endif %}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    known = next(token for token in tokenizer.all_special_tokens if token in tokenizer.chat_template)
    with pytest.raises(UserError, match="changes a reply once another turn follows .* model.chat_template=FILE.jinja"):
        held(Answering(by_length), template=template.replace("<|end|>", known))


class Saying(Rollout):
    """Writes the same text in every turn, with the end-of-turn token."""

    def __init__(self, text: str) -> None:
        self.ids = [*chat().tokenizer(text, add_special_tokens=False)["input_ids"], chat().end_token()]

    def sync(self, version: int) -> None:
        """It has no weights."""

    def generate(self, groups: Sequence[Group], sampling: Sampling) -> list[Group]:
        reply = base.completion(self.ids, [-1.0] * len(self.ids), chat().tokenizer, chat().ends(), 0)
        return [replace(group, completions=[deepcopy(reply) for _ in range(sampling.n)]) for group in groups]


def templated(reply: str, last: str = "", end: str = "<|end|>") -> str:
    """Return a chat template that writes a therapist's message by `reply`, the conversation's last one by `last` and `end`."""
    theirs = f"{{% if loop.last %}}{last or reply}{end}{{% else %}}{reply}<|end|>{{% endif %}}"
    turn = f"<|{{{{ m.role }}}}|>{{% if m.role == 'assistant' %}}{theirs}{{% else %}}{{{{ m.content }}}}<|end|>{{% endif %}}"
    asks = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    return f"<|begin|>{{% for m in messages %}}{turn}{{% endfor %}}{asks}"


KEPT, WITHOUT_THOUGHTS = "{{ m.content }}", "{{ m.content.split('</think>')[-1] }}"
APART = "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
THOUGHTS = "<think>She grieves.</think>What happened?"


@pytest.mark.parametrize(
    ("template", "text", "ends", "turns"),
    [
        (templated(KEPT), "What happened?", "stop", 3),
        (templated(KEPT), THOUGHTS, "stop", 3),
        (templated(APART), "What happened?", "stop", 3),
        (templated(APART), THOUGHTS, "stop", 3),
        (templated(WITHOUT_THOUGHTS, KEPT), "What happened?", "stop", 3),
        (templated(WITHOUT_THOUGHTS, KEPT), THOUGHTS, "rewritten", 1),  # earlier thoughts are removed
        (templated(WITHOUT_THOUGHTS), THOUGHTS, "rewritten", 1),  # all thoughts are removed
        (templated("{{ m.content }}", APART), THOUGHTS, "rewritten", 1),
        (templated("{{ raise_exception('no') if 'think' in m.content else m.content }}"), THOUGHTS, "rewritten", 1),
    ],
)
def test_a_reply_that_the_template_rewrites_ends_its_session_alone(
    template: str, text: str, ends: str, turns: int
) -> None:
    rollout = SessionRollout(Saying(text), chat(template), 3, world(), lambda: Answering(by_length))
    groups = rollout.generate(prompts("I can't sleep."), Sampling(2, 1.0, 200, LONG, 3))
    for _, session in every(groups):
        assert (session.finish_reason, len(session.turn_lengths)) == (ends, turns)
    assert {name: values for name, values in reply_figures(groups, None).items() if any(values)}.get(
        "rewritten", [False] * 2
    ) == [ends == "rewritten"] * 2


@pytest.mark.parametrize(
    "template",
    [
        templated(KEPT, "<think>\n\n</think>\n\n" + KEPT),  # as Qwen3: the last reply has a block of thoughts
        templated(KEPT, end="<|pad|>"),  # as gpt-oss: the last reply ends with another token
        templated("", KEPT),
    ],
    ids=["thoughts of the last reply", "end of the last reply", "no earlier replies"],
)
def test_a_template_that_writes_the_last_reply_in_another_way_is_refused_with_what_to_do(template: str) -> None:
    with pytest.raises(
        UserError, match=r"(?s)thoughts.* give one that writes every reply alike with model.chat_template=FILE"
    ):
        SessionRollout(Saying("Yes."), chat(template), 3, world(), lambda: Answering(by_length))


def test_sessions_survive_their_file(tmp_path: Path) -> None:
    groups = deepcopy(some_sessions())
    first = groups[0].completions[0]
    first.turn_rewards, first.turn_shares = np.array([0.5, 1.5], np.float32), np.array([0.5, 0.5], np.float32)
    first.turn_scores, first.turn_parts = np.array([1.0, 3.0]), [{"safety": 2.0}, {}]
    write_groups(tmp_path / "shard.parquet", groups)
    for (_, before), (_, after) in zip(every(groups), every(read_groups(tmp_path / "shard.parquet")), strict=True):
        assert after.session == before.session and after.finish_reason == before.finish_reason
        np.testing.assert_array_equal(after.ids, before.ids)
        np.testing.assert_array_equal(after.logprobs, before.logprobs)
        assert after.turn_parts == before.turn_parts
        for name in ("turn_rewards", "turn_shares", "turn_scores"):
            np.testing.assert_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("wrong", [["a"], ["a", 3], "aa"])
def test_clients_that_give_no_text_for_a_conversation_are_refused(wrong: Any) -> None:
    class Wrong(SimulatedClients):
        def answers(self, conversations: Any, seeds: Any) -> Any:
            return wrong

    with pytest.raises(UserError, match=r"Wrong.answers returned .*; it must return a list of \d texts or None"):
        held(Wrong(), n=1)


# Rewards


@pytest.mark.parametrize(
    ("over", "rewards", "earned", "shares"),
    [
        ("mean", [1.0, 2.0, 6.0], [1 / 3, 2 / 3, 2.0], [1 / 3] * 3),
        ("mean", [0.0, 0.0, 6.0], [0.0, 0.0, 2.0], [1 / 3] * 3),
        ("min", [3.0, -1.0, 2.0], [0.0, -1.0, 0.0], [0.0, 1.0, 0.0]),
        ("min", [0.0, 0.0, 2.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ("last", [4.0], [0.0, 0.0, 4.0], [0.0, 0.0, 1.0]),
        ("last", [0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]),
    ],
)
def test_what_turns_earn_adds_up_to_the_reward_of_the_session(
    over: str, rewards: Any, earned: Any, shares: Any
) -> None:
    result = earned_by_turns(np.array(rewards), 3, over)
    np.testing.assert_allclose(result[0], earned)
    np.testing.assert_allclose(result[1], shares)


class Counting(Scorer):
    """Gives each reply the number of messages before it; `seen` holds what it scored."""

    def __init__(self) -> None:
        self.seen = list[list[Message]]()

    def score(self, conversations: Any, progress: Any = iter) -> np.ndarray:
        self.seen += map(list, conversations)
        return np.array([len(conversation) - 1 for conversation in conversations], np.float32)


@pytest.mark.parametrize(("over", "scored"), [("mean", 2), ("min", 2), ("last", 1)])
def test_each_turn_is_scored_as_a_reply_to_all_that_was_said(over: str, scored: int) -> None:
    said: list[Message] = [
        {"role": "assistant", "content": "Why?"},
        {"role": "user", "content": "I fell."},
        {"role": "assistant", "content": "I see."},
    ]
    mask = np.array([True, False, True, True])
    reply = Completion(np.arange(4, dtype=np.int32), "Why?\n\nI see.", session=said, trained=mask)
    group = Group("g", np.array([1], np.int32), [reply], messages=[{"role": "user", "content": "Hello."}])
    scorer = Counting()
    Scoring(scorer, world(), False, None, over_turns=over)([group], lambda: None)
    ends = (3,) if over == "last" else (1, 3)
    assert scorer.seen == [[*(group.messages or []), *said[:end]] for end in ends] and len(scorer.seen) == scored
    assert reply.reward == {"mean": 2.0, "min": 1.0, "last": 3.0}[over]
    assert (
        reply.turn_rewards is not None
        and reply.turn_rewards.tolist()
        == {
            "mean": [0.5, 1.5],
            "min": [1.0, 0.0],
            "last": [0.0, 3.0],
        }[over]
    )
    (page,) = [sample_page([group], 1, "Round 0")]
    assert "> **assistant** (+" in page and "> **user**: I fell." in page
    figures = reply_figures([group], None)
    assert {name: figures[name] for name in ("turns", "length", "only_asks", "out_of_room")} == {
        "turns": [2],
        "length": [3],
        "only_asks": [0.5],
        "out_of_room": [False],
    }


def test_ppo_gives_each_turn_what_it_earned_at_its_last_token() -> None:
    mask = np.array([True, True, False, False, True, False, True, True, True])
    earned = np.array([0.5, -1.0, 0.25], np.float32)
    shares = np.full(3, 1 / 3)
    session = Completion(np.arange(9, dtype=np.int32), trained=mask, turn_rewards=earned, turn_shares=shares)
    scale, offset = 2.0, -0.3  # normalised rewards: scale * (reward - mean)
    placed = turn_ends(session, scale * float(earned.sum()) + offset, scale)
    assert [place for place, _ in placed] == [1, 2, 5]
    np.testing.assert_allclose([value for _, value in placed], [1.0, -2.0, 0.5 + offset], rtol=1e-6)
    tokens, values = np.zeros(6), np.linspace(-1, 1, 6)
    for place, value in placed:
        tokens[place] += value
    returns = [sum(0.9 ** (later - place) * tokens[later] for later in range(place, 6)) for place in range(6)]
    np.testing.assert_allclose(gae(tokens, values, 0.9, 1.0), np.array(returns) - values, rtol=1e-5)
    assert turn_ends(Completion(np.arange(3, dtype=np.int32)), 1.5, scale) == [(-1, 1.5)]


# Runs

CLIENTS = """
from dataclasses import dataclass
from psychocounsel.rollout.clients import SimulatedClients, ClientSettings

@dataclass
class Second(ClientSettings, SimulatedClients):
    told: str = "It began in the spring."

    def open(self, config, answers):
        return self

    def answers(self, conversations, seeds):
        turns = [sum(message["role"] == "assistant" for message in said) for said in conversations]
        asked = ["?" in said[-1]["content"] for said in conversations]
        pairs = zip(turns, asked, strict=True)
        return [self.told if turn == 2 and asks else "I do not know where to begin." for turn, asks in pairs]
"""
REWARD = """
from dataclasses import dataclass
import numpy as np
from psychocounsel.reward.base import RewardSettings, Scorer

@dataclass
class Told(RewardSettings, Scorer):
    def open(self, device):
        return self

    def score(self, conversations, progress=iter):
        told = ["spring" in said[-2]["content"] for said in conversations]
        asks = ["?" in said[-1]["content"] for said in conversations]
        return np.array(told, np.float32) + 0.1 * np.array(asks, np.float32)
"""


ASKING = """
from dataclasses import dataclass
from typing import ClassVar
from psychocounsel.asking.language_model import TEXT, Answer, WithoutModel
from psychocounsel.evaluation.safety.questions import Given, written_answers
from psychocounsel.evaluation.safety.word_checks import check_reply

@dataclass(kw_only=True)
class Asking(WithoutModel):
    config_group: ClassVar[str] = "judge"
    choice: ClassVar[str] = "judge=asking"
    version: ClassVar[int] = 1

    def answer(self, ask):
        asks = Given("yes", "?") if "?" in ask.reply else Given("no", "absent")
        return Answer(TEXT, written_answers({**check_reply(ask.reply), "recognises": asks}), "asking")
"""

OPENINGS = {
    f"{who}-{what}": f"My {who} has {words}, and I think of nothing else any more."
    for who in ("sister", "father", "partner", "friend", "neighbour")
    for what, words in {
        "left": "left without a word",
        "ill": "been ill since May",
        "anger": "shouted at me",
        "money": "lost all we had",
    }.items()
}


def own(folder: Path) -> list[str]:
    """Write own clients and an own reward, and return the overrides of a short run with them."""
    write_own(folder / "my", "clients", "second", CLIENTS, "_target_: second.Second\ntold: It began in the spring.\n")
    write_own(folder / "my", "reward", "told", REWARD, "_target_: told.Told\nname: told\n")
    given = ["--config-dir=my", "reward=told", "rollout.clients=second", "rollout.turns=3", "rollout.max_tokens=48"]
    given += [
        "data.limit=60",
        "global_batch_size=4",
        "max_steps=2",
        "eval.every=0",
        "eval.limit=4",
        "cluster.threads=1",
    ]
    return [*given, "rollout.shard_prompts=2", "run_dir=run"]


def rewards_of(run: Path) -> list[list[float]]:
    shards = sorted((run / "rounds").glob("*/shard-*.parquet"))
    return [[reply.reward for group in read_groups(file) for reply in group.completions] for file in shards]  # type: ignore[misc]


# Sessions reach these as they reach PPO.
_ALIKE = [pytest.param(algo, marks=pytest.mark.proof) for algo in ("grpo", "rloo", "online_dpo", "online_simpo")]


@pytest.mark.parametrize("algo", [pytest.param("ppo", marks=pytest.mark.slow), *_ALIKE])
def test_each_online_algorithm_learns_from_sessions_with_two_processes_as_with_one(algo: str, tmp_path: Path) -> None:
    more = ["algo.critic=policy"] if algo == "ppo" else []
    for processes in (1, 2):
        place = tmp_path / str(processes)
        place.mkdir()
        cli("train", *own(place), f"algo={algo}", *more, f"cluster.processes={processes}", cwd=place)
    one, two = (tmp_path / number / "run" for number in "12")
    assert rewards_of(one)[:2] == rewards_of(two)[:2], "the first round's sessions do not depend on the processes"
    last = metrics_of(one)[-1]
    assert last["eval/turns"] >= 1 and {"eval/reward", "eval/only_asks", "eval/out_of_room"} <= last.keys()


@pytest.mark.slow
@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("rollout", [pytest.param("vllm", marks=pytest.mark.proof), "vllm_server"])
def test_vllm_and_the_trainer_agree_over_all_turns(rollout: str, tmp_path: Path) -> None:
    given = ["algo=grpo", f"rollout={rollout}", "rollout.cpu_cache_gb=0.2", "cluster.threads=2"]
    cli("train", *own(tmp_path), *given, cwd=tmp_path)
    rounds = [line for line in metrics_of(tmp_path / "run") if "rollout/turns" in line]
    assert len(rounds) == 2 and max(line["rollout/turns"] for line in rounds) > 1
    assert max(line["rollout/logprob_difference_max"] for line in rounds) < 1e-3


_PARTITIONED = ["zero=3", "cluster.processes=2", "global_batch_size=2", "algo.samples=2", "eval.limit=2"]
_PARTITIONED += [
    "rollout.turns=2",
    "rollout.max_tokens=12",
    "rollout.shard_prompts=1",
]  # each token gathers all weights


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [pytest.param([], marks=pytest.mark.proof), _PARTITIONED], ids=["alone", "partitioned"]
)
def test_a_run_killed_within_a_round_ends_as_one_that_was_not(more: list[str], tmp_path: Path) -> None:
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    cli("train", *own(tmp_path / "whole"), "algo=grpo", *more, cwd=tmp_path / "whole")
    given = own(tmp_path / "parts")
    command = [sys.executable, "-m", "psychocounsel.train", *given, "algo=grpo", *more]
    run = subprocess.Popen(command, cwd=tmp_path / "parts", start_new_session=True, stdout=subprocess.DEVNULL)
    shards, end = tmp_path / "parts" / "run" / "rounds" / "0001", time.monotonic() + 180
    while run.poll() is None and time.monotonic() < end and not [*shards.glob("shard-*.parquet")]:
        time.sleep(0.01)
    assert run.poll() is None, "the run ended before it could be killed"
    owner = read_json(RunDir(tmp_path / "parts" / "run").owner)
    os.kill(owner["pid"], signal.SIGKILL)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    cli("train", *given, "algo=grpo", *more, cwd=tmp_path / "parts")
    whole, parts = (metrics_of(tmp_path / name / "run") for name in ("whole", "parts"))
    timed = ("seconds", "tokens_per", "mfu", "memory", "time")
    kept = [
        [{name: value for name, value in line.items() if not any(word in name for word in timed)} for line in lines]
        for lines in (whole, parts)
    ]
    assert kept[0] == kept[1]


@pytest.mark.slow
def test_wrong_settings_of_clients_are_refused_before_a_job_starts(tmp_path: Path) -> None:
    given = own(tmp_path)
    for more, said in (
        (["rollout.clients=nobody"], "rollout.clients=nobody: there is no conf/clients/nobody.yaml"),
        (["rollout.clients.tolds=x"], "rollout.clients.tolds"),
        (
            ["rollout.clients=scripted"],
            "rollout.clients: scripted clients go on from their own first words: add data=clients",
        ),
        (["rollout.clients=played"], "rollout.clients.client.model is not set"),
        (["rollout.turns=1"], "rollout.turns=1: must be at least 2"),
    ):
        error = cli("train", *given, "algo=grpo", *more, cwd=tmp_path, check_code=USER_ERROR).stderr
        assert error.startswith("error: ") and said in error and error.count("\n") == 1


@pytest.mark.proof
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_grpo_learns_to_ask_in_the_second_turn_what_only_a_later_turn_rewards(seed: int, tmp_path: Path) -> None:
    given = [
        *own(tmp_path),
        "algo=grpo",
        "algo.samples=8",
        "algo.lr=1e-4",
        f"seed={seed}",
        "rollout.session_reward=last",
    ]
    given += ["max_steps=24", "global_batch_size=8", "data.limit=100", "eval.limit=30", "rollout.max_tokens=96"]
    cli("train", *given, cwd=tmp_path, minutes=30)
    evaluated = [line for line in metrics_of(tmp_path / "run") if "eval/reward" in line]
    assert evaluated[-1]["eval/reward"] > evaluated[0]["eval/reward"] + 0.2
    assert evaluated[-1]["eval/repetition"] < 0.1
    # Clients of no training hint at a risk in their second turn; the judge counts a reply that asks as one that sees it.
    due = ("none", "monitor", *["none"] * 6)
    clients = [script(name, "suicidal_thoughts", due) for name in OPENINGS]
    for client in clients:
        client["states"]["s0"]["says"], client["states"]["s1"]["says"] = (
            OPENINGS[client["name"]],
            "I do not know where to begin.",
        )
    write_scripts(tmp_path / "scripts", {"masked": {"pattern": "masked", "about": "A hint.", "personas": clients}})
    write_own(tmp_path / "my", "judge", "asking", ASKING, "_target_: asking.Asking\nname: asking\n")
    given = ["--config-dir=my", "evaluation=session", "personas.folder=scripts", "judge=asking", "evaluation.turns=2"]
    given += ["model.path=run/model", f"against={TINY}", "replies.max_tokens=96", "replies.samples=4", "run_dir=out"]
    cli("evaluate", *given, cwd=tmp_path)
    (judge,) = read_json(tmp_path / "out" / "figures.json")["judges"].values()
    missed = {name: setting["figures"]["missed"]["mean"] for name, setting in judge["settings"].items()}
    assert missed.pop("tiny") - 0.15 > max(missed.values()), "the other is named after the folder of its run"
