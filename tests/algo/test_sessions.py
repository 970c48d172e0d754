"""Whole sessions: all turns of the policy are trained in one pass, and no token of the client is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from psychocounsel.algo.base import Algorithm
from psychocounsel.algo.dpo import DPO
from psychocounsel.algo.kto import KTO
from psychocounsel.algo.orpo import ORPO
from psychocounsel.algo.reward import Reward
from psychocounsel.algo.sft import SFT
from psychocounsel.algo.simpo import SimPO
from psychocounsel.data.group import Group
from psychocounsel.data.messages import Message
from psychocounsel.data.rows import Example, every_turn, parse_row
from psychocounsel.data.tokenise import join_turns, tokenise
from psychocounsel.engine.reference_store import row_key
from psychocounsel.engine.step import metrics_of
from tests.support.harness import make_stepper
from tests.support.parity import Models, chat, model

pytestmark = pytest.mark.usefixtures("in_process_training")

_TEXT = """I feel worried about work and cannot sleep . What would help you to rest ? Thank you , it is heavy"""
WORDS = _TEXT.split()
PATHS = [("dense", 1), ("dense", 4096), ("varlen", 400), ("varlen", 4096)]  # attention and micro_batch_tokens


def talk(rng: np.random.Generator, turns: int, first: str = "user") -> list[Message]:
    """Return alternating messages of invented words."""
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [
        {"role": roles[place % 2], "content": " ".join(rng.choice(WORDS, rng.integers(2, 12)))}
        for place in range(turns)
    ]


def conversations(count: int = 5) -> list[Example]:
    rng = np.random.default_rng(3)
    return [parse_row({"messages": talk(rng, 2 * rng.integers(1, 5))}, f"row {number}") for number in range(count)]


def pairs(count: int = 4) -> list[Example]:
    """Return pairs of sessions with one to four turns of the policy a side; every second row has the implicit form."""
    rng = np.random.default_rng(5)
    rows = []
    for number in range(count):
        prompt = talk(rng, 1 + 2 * (number % 2))
        sides = [talk(rng, 2 * turns - 1, "assistant") for turns in (1 + number, 4 - number)]
        if number % 2:
            rows.append({"chosen": [*prompt, *sides[0]], "rejected": [*prompt, *sides[1]]})
        else:
            rows.append({"prompt": prompt, "chosen": sides[0], "rejected": [*prompt, *sides[1]]})
    return [parse_row(row, f"row {number}") for number, row in enumerate(rows)]


def groups_of(examples: list[Example], kind: str) -> list[Group]:
    return tokenise(examples, chat()[1], kind, max_length=512)


def step(
    lm: Any, algorithm: Algorithm, groups: list[Group], attention: str = "dense", budget: int = 4096
) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    stepper = make_stepper(lm, algorithm, budget, torch.float32, f"model.attention={attention}", "zero=0")
    stepper.main.train(True)
    metrics = metrics_of(stepper.accumulate(groups, train=True)[0])
    stepper.main.copies.move_gradients()
    return metrics, {name: weights.grad for name, weights in lm.named_parameters() if weights.grad is not None}


def assert_same(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], where: Any = "") -> None:
    assert gradients.keys() == expected.keys() and gradients
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).norm() <= 1e-5 * gradient.norm().clamp(min=1e-6), (name, where)


def test_every_turn_in_one_pass_equals_a_row_for_each_turn() -> None:
    turns = groups_of([turn for row in conversations() for turn in every_turn(row)], "completions")
    rows = join_turns(turns)
    assert (len(rows), len(turns)) == (5, sum(len(every_turn(row)) for row in conversations()))
    assert len(turns) > 10 and sum(group.tokens for group in rows) < 0.6 * sum(group.tokens for group in turns)
    assert sum(sum(row.trained_lengths) for row in rows) == sum(sum(turn.trained_lengths) for turn in turns)
    separate, expected = step(model(), SFT(), turns)
    for attention, budget in PATHS:
        together, gradients = step(model(), SFT(), rows, attention, budget)
        assert together["loss"] == pytest.approx(separate["loss"], rel=1e-6)
        assert_same(gradients, expected, (attention, budget))


# -- pairs of sessions, against plain passes of each turn after its own prompt


def turns_of(example: Example, side: int) -> list[Group]:
    """Return each turn of one side as a row of its own."""
    assert example.turns is not None
    messages = example.turns[side]
    return groups_of(
        [
            Example("", "row", [*example.prompt, *messages[:place]], [messages[place]["content"]])
            for place in range(0, len(messages), 2)
        ],
        "completions",
    )


def logprob(lm: Any, turn: Group) -> torch.Tensor:
    """Return the sum of a turn's log-probabilities, from a plain pass."""
    ids = torch.from_numpy(np.concatenate([turn.prompt_ids, turn.completions[0].ids]).astype(np.int64))
    start = len(turn.prompt_ids)
    logprobs = lm(input_ids=ids[None]).logits[0, start - 1 : -1].log_softmax(-1)
    return logprobs.gather(1, ids[start:, None]).sum()


def plain(lm: Any, examples: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-probability of each side and its number of tokens, float[P, 2] each."""
    sides = [[turns_of(example, side) for side in (0, 1)] for example in examples]
    sums = [torch.stack([torch.stack([logprob(lm, turn) for turn in side]).sum() for side in both]) for both in sides]
    lengths = [[float(sum(len(turn.completions[0].ids) for turn in side)) for side in both] for both in sides]
    return torch.stack(sums), torch.tensor(lengths)


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def odds(mean: torch.Tensor) -> torch.Tensor:
    return mean - torch.log1p(-mean.exp())


def kto_loss(sums: torch.Tensor, lengths: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    good, bad = (0.1 * (sums - reference - 0.3)).T
    return (2 - torch.sigmoid(good) - torch.sigmoid(-bad)).mean() / 2


CASES: dict[str, tuple[Callable[[], Algorithm], Loss]] = {
    # algorithm, and its loss from log-probabilities, lengths and reference log-probabilities, float[P, 2] each
    "dpo": (
        lambda: DPO(sft_weight=0.2),
        lambda sums, lengths, reference: (
            -logsigmoid(0.1 * (sums - reference) @ torch.tensor([1.0, -1.0])).mean()
            - 0.2 * sums[:, 0].sum() / lengths[:, 0].sum()
        ),
    ),
    "ipo": (
        lambda: DPO(loss_type="ipo"),
        lambda sums, lengths, reference: (
            (((sums - reference) / lengths) @ torch.tensor([1.0, -1.0]) - 5.0).square().mean()
        ),
    ),
    "simpo": (
        SimPO,
        lambda sums, lengths, _: (
            -logsigmoid(2.5 * ((sums / lengths) @ torch.tensor([1.0, -1.0]) - 0.55)).mean()
        ),
    ),
    "orpo": (
        ORPO,
        lambda sums, lengths, _: (
            -0.1 * logsigmoid(odds(sums / lengths) @ torch.tensor([1.0, -1.0])).mean()
            - sums[:, 0].sum() / lengths[:, 0].sum()
        ),
    ),
    "kto": (KTO, kto_loss),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_pairs_of_sessions_train_the_turns_of_the_policy_alone(name: str) -> None:
    make, loss = CASES[name]
    algorithm, examples = make(), pairs()
    if isinstance(algorithm, KTO):
        algorithm._kl = 0.3
    reference, policy = model(seed=1), model()
    groups = groups_of(examples, "labelled" if name == "kto" else "pairs")
    with torch.no_grad():
        theirs = plain(reference, examples)[0]
    known = make_stepper(reference, SFT()).per_token(groups)
    for group, values in zip(groups, known, strict=True):
        for reply, row in zip(group.completions, values, strict=True):
            reply.ref_logprobs = row
    assert [[float(row.sum()) for row in rows] for rows in known] == [
        pytest.approx(row, rel=1e-5) for row in theirs.tolist()
    ]
    sums, lengths = plain(policy, examples)
    expected = loss(sums, lengths, theirs)
    expected.backward()
    gradients = {key: weights.grad for key, weights in policy.named_parameters() if weights.grad is not None}
    for attention, budget in PATHS:
        metrics, ours = step(model(), algorithm, groups, attention, budget)
        assert metrics["loss"] == pytest.approx(float(expected), rel=1e-5)
        assert_same(ours, gradients, (attention, budget))


def test_the_mismatched_replies_of_kto_keep_their_masks() -> None:
    groups, stepper = groups_of(pairs(), "labelled"), make_stepper(model(), SFT())
    algorithm = KTO()
    collected = algorithm.collect(groups, Models(reference=make_stepper(model(seed=1), SFT())))
    assert all(len(reply.ref_logprobs) == reply.trained_tokens for group in collected for reply in group.completions)
    assert len(algorithm.batch_groups(collected, Models(policy=stepper))) == len(groups)


def test_a_reward_model_reads_the_whole_session() -> None:
    examples, format_ = pairs(), chat()[1]
    whole = [
        [format_.render([*example.prompt, *turns[:-1]], turns[-1]["content"]) for turns in example.turns or ()]
        for example in examples
    ]
    try:
        format_.keep_tail = True
        groups = groups_of(examples, "pairs")
    finally:
        format_.keep_tail = False
    lm = _rewards()
    for group, texts in zip(groups, whole, strict=True):
        for reply, text in zip(group.completions, texts, strict=True):
            assert [*group.prompt_ids, *reply.ids] == format_.tokenizer(text.text, add_special_tokens=False)[
                "input_ids"
            ]
    stepper = make_stepper(lm, Reward())
    _, scores = stepper.accumulate(groups, train=False)
    with torch.no_grad():
        expected = [
            [
                stepper.main.module.alone(*map(_tensor, (group.prompt_ids, reply.ids))).item()
                for reply in group.completions
            ]
            for group in groups
        ]
    assert np.array(scores) == pytest.approx(np.array(expected), abs=1e-5)


def _rewards() -> Any:
    return model(rewards=True, pad_token_id=0)


def _tensor(ids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64))


def test_the_key_of_reference_values_knows_the_mask() -> None:
    ids = np.arange(4, dtype=np.int32)
    masks = [None, np.array([True, False, True, True]), np.array([True, True, False, True])]
    assert len({row_key(ids[:2], ids, mask) for mask in masks}) == 3
