"""KTO against TRL's trainer in fp32, as in test_trl_parity, and against its formula."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from psychocounsel.algo.kto import KTO
from psychocounsel.data.group import Group
from psychocounsel.engine.step import metrics_of
from tests.support.harness import make_stepper
from tests.support.parity import (
    BATCH,
    BUDGET,
    OURS,
    THEIRS,
    TOLERANCE,
    Models,
    assert_same_metrics,
    assert_same_training,
    chat,
    groups_of,
    ids_of,
    largest_difference,
    model,
    plain_ratios,
    reference_of,
    rows,
    train_ours,
)
from tests.support.trl_oracle import gradients_of, train_kto

pytestmark = pytest.mark.usefixtures("in_process_training")

WEIGHTS = {"desirable_weight": 1.5, "undesirable_weight": 0.6}


def labelled_rows() -> list[dict[str, Any]]:
    """Return single replies, two of three good; in a batch, longer prompts have longer replies.

    Then no prompt with a mismatched reply is longer than both matched sequences, so ours cuts none; TRL's never does.
    """
    made: list[dict[str, Any]] = []
    pairs = list(zip(rows(), groups_of("pairs"), strict=True))
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        by_prompt = sorted(batch, key=lambda pair: len(pair[1].prompt_ids))
        by_reply = sorted(batch, key=lambda pair: len(pair[1].completions[0].ids))
        for (first, _), (second, _) in zip(by_prompt, by_reply, strict=True):
            made.append({"prompt": first["prompt"], "completion": second["chosen"], "label": len(made) % 3 > 0})
    return made


@pytest.mark.parametrize(("policy", "reference", "settings"), [(0, 1, {}), (1, 0, WEIGHTS)])
def test_kto_equals_trl(policy: int, reference: int, settings: dict[str, Any], tmp_path: Path) -> None:
    """TRL gives each prompt the previous reply of its batch and ours the next one, so our batches are reversed."""
    data, algorithm = labelled_rows(), KTO(beta=0.2, **settings, **OURS)
    groups, context = groups_of("labelled", data), reference_of(model(seed=reference))
    backwards = [groups[start : start + BATCH][::-1] for start in range(0, len(groups), BATCH)]
    batches = [algorithm.collect(batch, context) for batch in backwards]
    settings = {"beta": 0.2, **THEIRS, **settings}
    theirs = train_kto(model(seed=policy), model(seed=reference), chat()[0], data, tmp_path, **settings)
    for group, row in zip([group for batch in batches for group in batch[::-1]], theirs.data, strict=True):
        assert group.prompt_ids.tolist() == row["prompt_ids"]
        assert [c.ids.tolist() for c in group.completions] == [row["completion_ids"], row["KL_completion_ids"]]
        assert [c.label for c in group.completions] == [row["label"], None]
    ours = train_ours(model(seed=policy), algorithm, [group for batch in batches for group in batch])
    assert_same_training(ours, theirs)
    assert_same_metrics(ours, theirs, {"reference_point": "kl"})
    assert max(metrics["reference_point"] for metrics in ours.metrics) > 0.1
    for mine, others in zip(ours.metrics, theirs.metrics, strict=True):
        z = (
            algorithm.beta * mine["reference_point"]
        )  # TRL's rewards do not include it, and are means of the good and of the bad replies
        margin = (2 * (others["rewards/chosen"] - z) - (others["rewards/rejected"] - z)) / 3
        assert mine["rewards/margin"] == pytest.approx(margin, abs=2e-5)


def plain_kto(lm: Any, reference: Any, groups: list[Group], strangers: list[int], algorithm: KTO) -> torch.Tensor:
    """Return the loss by equation 8 of the paper; `strangers` holds each group's source of mismatched replies."""
    mismatched, losses = [], []
    for group, other in zip(groups, [groups[number] for number in strangers], strict=True):
        room = max(map(len, ids_of(group) + ids_of(other))) - len(group.prompt_ids)
        with torch.no_grad():
            ids = [completion.ids[:room] for completion in other.completions]
            mismatched += [plain_ratios(lm, reference, group.prompt_ids, each).sum() for each in ids]
    z = torch.stack(mismatched).mean().clamp(min=0)
    for group in groups:
        good, bad = (plain_ratios(lm, reference, group.prompt_ids, each.ids).sum() for each in group.completions)
        losses.append(algorithm.desirable_weight * (1 - torch.sigmoid(algorithm.beta * (good - z))))
        losses.append(algorithm.undesirable_weight * (1 - torch.sigmoid(algorithm.beta * (z - bad))))
    return torch.stack(losses).mean()


def test_kto_equals_its_formula_however_split() -> None:
    """Pairs count as single replies. z comes from the whole batch, however it is split; some mismatched replies are cut."""
    reference, plain = model(seed=1), model()
    algorithm = KTO(beta=0.2, **WEIGHTS, **OURS)
    groups = groups_of("labelled")[:BATCH]
    groups[1].prompt_ids = groups[0].prompt_ids  # equal prompts do not exchange replies
    # A long prompt with short replies and the reverse: the second group's replies are too long for the first prompt.
    groups[3].completions, groups[4].completions = groups[4].completions, groups[3].completions
    strangers = [2, 2, 3, 4, 5, 0]
    expected = plain_kto(plain, reference, groups, strangers, algorithm)
    expected.backward()
    for budget in (60, 10**6):
        lm = model()
        stepper = make_stepper(lm, algorithm, budget)
        collected = algorithm.collect(groups, reference_of(reference, budget))
        assert len(collected[3].completions[2].ids) < len(groups[4].completions[0].ids)
        batch = algorithm.batch_groups(collected, Models(policy=stepper))
        assert (len(list(stepper.micro_batches(batch))) > 1) == (budget == 60)
        metrics = metrics_of(stepper.accumulate(batch, train=True)[0])
        assert metrics["reference_point"] > 0
        assert metrics["loss"] == pytest.approx(expected.item(), rel=TOLERANCE)
        assert largest_difference(gradients_of(lm), gradients_of(plain)) <= TOLERANCE


@pytest.mark.parametrize(
    ("good", "bad", "mismatched", "kl", "accuracy"),
    [(0, 0, 0, 0, 0.5), (2, -1, 0.5, 0.5, 1), (2, 1, -0.5, 0, 0.5), (-1, 3, 0.5, 0.5, 0)],
)
def test_kto_of_given_ratios(good: float, bad: float, mismatched: float, kl: float, accuracy: float) -> None:
    """The reference is shifted to give the log-ratios; at zero the loss is half the weight."""
    algorithm = KTO(beta=0.5, **WEIGHTS)
    stepper = make_stepper(model(), algorithm, BUDGET)
    groups = algorithm.collect(groups_of("labelled"), Models(reference=stepper))
    for completion in (completion for group in groups for completion in group.completions):
        completion.ref_logprobs[0] -= {True: good, False: bad, None: mismatched}[completion.label]
    batch = algorithm.batch_groups(groups, Models(policy=stepper))
    metrics = metrics_of(stepper.accumulate(batch, train=True)[0])
    losses = [1.5 / (1 + math.exp(0.5 * (good - kl))), 0.6 / (1 + math.exp(0.5 * (kl - bad)))]
    assert metrics["loss"] == pytest.approx(sum(losses) / 2, rel=TOLERANCE)
    assert metrics["reference_point"] == pytest.approx(kl, abs=TOLERANCE)
    assert metrics["rewards/margin"] == pytest.approx(0.5 * (good - bad) / 2, abs=TOLERANCE)
    assert metrics["rewards/accuracy"] == accuracy
