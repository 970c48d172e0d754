"""SmolLM2-135M, a real model: what is trained is what its template writes, and one step of each algorithm equals TRL's."""

import gc
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.kto import KTO
from psychocounsel.algo.orpo import ORPO
from psychocounsel.algo.reward import Reward
from psychocounsel.algo.sft import SFT
from psychocounsel.algo.simpo import SimPO
from psychocounsel.counsel.system_prompt import SHORT
from psychocounsel.data.group import Completion, Group
from psychocounsel.data.messages import Message
from psychocounsel.data.rows import parse_row
from psychocounsel.data.selection import load_split
from psychocounsel.data.tokenise import tokenise
from psychocounsel.engine.rounds.scoring import Scoring
from psychocounsel.engine.step import metrics_of
from psychocounsel.model.cpu.process import return_freed_memory
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.reward.base import Scorer
from psychocounsel.reward.encoding import encode_conversations
from psychocounsel.rollout.sessions import Session
from tests.support.composed import check, compose
from tests.support.harness import make_stepper, world
from tests.support.parity import OURS, THEIRS, Models, reference_of
from tests.support.real_model import smollm2
from tests.support.trl_oracle import Recording, train_dpo, train_kto, train_orpo, train_reward, train_sft, train_simpo

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_process_training")]

ROWS = 8
BUDGET = 512  # tokens of a micro-batch of ours, so that a step needs several
_THEIRS = {**THEIRS, "per_device_train_batch_size": ROWS}
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def no_engine_stays() -> Iterator[None]:
    """Return the memory of a test's engines to the system, because tests that run at the same time need gigabytes."""
    yield
    gc.collect()
    return_freed_memory()


@cache
def chat(scores: bool = False) -> Any:
    return load_chat_format(check(compose(["model=local", f"model.path={smollm2()}"])).model, scores=scores)


@cache
def pairs() -> list[Row]:
    """Return pairs of the sample, with texts cut to a few words, so that a step takes seconds."""
    _, held_out = load_split(check(compose([])).data, lambda line: None)
    kept = [example for example in held_out if example.prompt[0]["role"] == "user"][:ROWS]

    def short(text: str, words: int) -> str:
        return " ".join(text.split()[:words])

    return [
        {
            "prompt": [{"role": "user", "content": short(example.prompt[-1]["content"], 20 + number)}],
            "chosen": short(example.replies[0], 14 + 2 * number),
            "rejected": short(example.replies[1], 30 - 2 * number),
        }
        for number, example in enumerate(kept)
    ]


def labelled() -> list[Row]:
    return [
        {"prompt": row["prompt"], "completion": row["chosen"], "label": number % 3 > 0}
        for number, row in enumerate(pairs())
    ]


def groups_of(kind: str, rows: list[Row], scores: bool = False) -> list[Group]:
    examples = [parse_row(row, f"row {number}") for number, row in enumerate(rows)]
    return tokenise(examples, chat(scores)[1], kind, max_length=512)


def rendered(rows: list[Row], scores: bool) -> list[Row]:
    """Return the rows for TRL: texts that end with the end token, or messages where the whole template is read (`scores`)."""
    tokenizer = chat(scores)[0]

    def prompt_of(row: Row) -> list[Row]:
        return [{"role": "system", "content": SHORT}, *row["prompt"]]

    def reply(text: str) -> Any:
        return [{"role": "assistant", "content": text}] if scores else text + tokenizer.eos_token

    def prompt(row: Row) -> Any:
        if scores:
            return prompt_of(row)
        return tokenizer.apply_chat_template(prompt_of(row), tokenize=False, add_generation_prompt=True)

    made = []
    for row in rows:
        replies = {key: reply(row[key]) for key in ("chosen", "rejected", "completion") if key in row}
        made.append({**row, "prompt": prompt(row), **replies})
    return made


def model(rewards: bool = False, dtype: torch.dtype = torch.float32) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(0)
    if rewards:
        lm = AutoModelForSequenceClassification.from_pretrained(smollm2(), num_labels=1, dtype=dtype)
        lm.config.pad_token_id = chat(scores=True)[0].pad_token_id
    else:
        lm = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=dtype)
    lm.config.use_cache = False
    return lm.eval()


def moved(lm: Any) -> Any:
    """Change the weights of `lm` by about 1 % and return it. DPO margins against such a reference do not start at zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in lm.parameters():
            parameter.mul_(1 + 0.01 * torch.randn(parameter.shape, generator=generator))
    return lm


def step_of(lm: Any, algorithm: Any, groups: list[Group]) -> tuple[float, float]:
    """Return the loss and the gradient's norm of one step of ours."""
    stepper = make_stepper(lm, algorithm, BUDGET)
    groups = algorithm.batch_groups(groups, Models(policy=stepper))
    loss = metrics_of(stepper.accumulate(groups, train=True)[0])["loss"]
    return loss, float(stepper.main.step(1e-6))


def test_training_generation_and_template_have_the_same_tokens() -> None:
    tokenizer, form = chat()
    for row, group in zip(pairs(), groups_of("pairs", pairs()), strict=True):
        messages = [{"role": "system", "content": SHORT}, *row["prompt"]]
        before = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
        whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": row["chosen"]}])["input_ids"]
        reply = group.completions[0].ids.tolist()
        assert group.prompt_ids.tolist() == before, "what generation sees"
        assert before + reply == whole[: len(before + reply)] and reply[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(whole[len(before + reply) :]).strip() == "", (
            "only the line break after the end token is left out"
        )
        assert tokenizer.decode(before).count("system\n") == 1 and "SmolLM" not in tokenizer.decode(before)
    _, none = load_chat_format(
        check(compose(["model=local", f"model.path={smollm2()}", "model.system_prompt=null"])).model
    )
    assert none.render(pairs()[0]["prompt"]).text.count("You are a helpful AI assistant named SmolLM") == 1
    assert form.end_token() == tokenizer.eos_token_id


class Reads(Scorer):
    """Reads conversations as a reward model with SmolLM2's template does, and gives each the number of its tokens."""

    def score(self, conversations: Any, progress: Any = iter) -> np.ndarray:
        return np.array(
            [len(each.ids) for each in encode_conversations(chat(True)[1], conversations, None)], np.float32
        )


@pytest.mark.parametrize("space", ["", " ", "\n", "\n\n"])
def test_a_reply_that_begins_with_space_is_scored_and_a_client_can_answer_it(space: str) -> None:
    """The tokenizer joins a leading newline with that of the template, so the prompt is no prefix of prompt and reply."""
    _, form = chat()
    messages: list[Message] = [{"role": "user", "content": "I am tired."}]
    (prompt,) = form.encode_prompts([form.render(messages)])
    text = f"{space}What tires you?"
    reply = Completion(np.array(form.tokenizer(text)["input_ids"], np.int32), text, finish_reason="stop")
    group = Group("g", prompt, [reply, Completion(reply.ids, text.strip())], messages=messages)
    Scoring(Reads("reads"), world(), False, None)([group], lambda: None)
    assert group.completions[0].reward == group.completions[1].reward
    session = Session(group, 0)
    session.say(reply)
    session.hear("My work.", form, 500)
    heard = form.tokenizer.decode(session.between)
    assert not session.is_over and heard.endswith("<|im_start|>user\nMy work.<|im_end|>\n<|im_start|>assistant\n")


def _sft(folder: Path) -> tuple[tuple[float, float], Recording]:
    theirs = train_sft(model(), chat()[0], rendered(pairs(), False), folder, **_THEIRS)
    groups = groups_of("completions", pairs())
    assert [row["input_ids"] for row in theirs.data] == [
        [*group.prompt_ids.tolist(), *group.completions[0].ids.tolist()] for group in groups
    ]
    return step_of(model(), SFT(**OURS), groups), theirs


def _dpo(folder: Path) -> tuple[tuple[float, float], Recording]:
    groups = DPO().collect(groups_of("pairs", pairs()), reference_of(moved(model())))
    theirs = train_dpo(model(), moved(model()), chat()[0], rendered(pairs(), False), folder, beta=0.1, **_THEIRS)
    assert [(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"]) for row in theirs.data] == [
        (group.prompt_ids.tolist(), *(reply.ids.tolist() for reply in group.completions)) for group in groups
    ]
    return step_of(model(), DPO(beta=0.1, **OURS), groups), theirs


def _kto(folder: Path) -> tuple[tuple[float, float], Recording]:
    """TRL gives each prompt the previous reply of its batch and ours the next one, so our batch is reversed."""
    algorithm, groups = KTO(beta=0.1, **OURS), groups_of("labelled", labelled())[::-1]
    groups = algorithm.collect(groups, reference_of(moved(model())))
    theirs = train_kto(model(), moved(model()), chat()[0], rendered(labelled(), False), folder, beta=0.1, **_THEIRS)
    return step_of(model(), algorithm, groups), theirs


def _simpo(folder: Path) -> tuple[tuple[float, float], Recording]:
    more = {"beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}
    theirs = train_simpo(model(), chat()[0], rendered(pairs(), False), folder, **more, **_THEIRS)
    return step_of(model(), SimPO(beta=2.0, gamma_beta_ratio=0.5, **OURS), groups_of("pairs", pairs())), theirs


def _orpo(folder: Path) -> tuple[tuple[float, float], Recording]:
    theirs = train_orpo(model(), chat()[0], rendered(pairs(), False), folder, untouched=False, beta=0.1, **_THEIRS)
    return step_of(model(), ORPO(beta=0.1, **OURS), groups_of("pairs", pairs())), theirs


def _reward(folder: Path) -> tuple[tuple[float, float], Recording]:
    groups = groups_of("pairs", pairs(), scores=True)
    theirs = train_reward(model(rewards=True), chat(scores=True)[0], rendered(pairs(), True), folder, **_THEIRS)
    assert [[row["chosen_ids"], row["rejected_ids"]] for row in theirs.data] == [
        [[*group.prompt_ids.tolist(), *reply.ids.tolist()] for reply in group.completions] for group in groups
    ]
    return step_of(model(rewards=True), Reward(**OURS), groups), theirs


@pytest.mark.parametrize("steps", [_sft, _dpo, _kto, _simpo, _orpo, _reward])
def test_a_step_equals_trls(steps: Callable[[Path], tuple[tuple[float, float], Recording]], tmp_path: Path) -> None:
    ours, theirs = steps(tmp_path)
    assert len(theirs.losses) == 1
    assert ours == pytest.approx((theirs.losses[0], theirs.norms[0]), rel=1e-4)


def test_bfloat16_is_near_fp32() -> None:
    groups = DPO().collect(groups_of("pairs", pairs()), reference_of(moved(model())))
    fp32 = make_stepper(model(), DPO(**OURS), BUDGET).per_token(groups)
    bf16 = make_stepper(model(), DPO(**OURS), BUDGET, torch.bfloat16).per_token(groups)
    difference = np.concatenate(
        [a - b for of_group in zip(fp32, bf16, strict=True) for a, b in zip(*of_group, strict=True)]
    )
    assert np.abs(difference).mean() < 0.05 and np.abs(difference).max() < 1.0, "nats a token"
