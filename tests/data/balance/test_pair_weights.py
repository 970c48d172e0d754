"""`data.balance` from texts to groups: weighted cues predict nothing, the cost is reported, impossible cases are errors."""

import numpy as np
import pytest

from psychocounsel.counsel.cues import CUES
from psychocounsel.data.balance.pair_weights import weigh_pairs
from psychocounsel.data.dataset import Dataset, build_dataset
from psychocounsel.data.group import Completion, Group
from psychocounsel.errors import UserError
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.settings.config import check, compose
from tests.support.preferences import FIRST_SAMPLE


def pair(chosen: str, rejected: str) -> Group:
    return Group("a", np.ones(1, np.int32), [Completion(np.ones(1, np.int32), text) for text in (chosen, rejected)])


def weighted_accuracy(groups: list[Group], cue: str) -> float:
    """Return the weighted accuracy of a cue by a loop over pairs; a tie counts half."""
    right = whole = 0.0
    for group in groups:
        chosen, rejected = (CUES[cue](reply.text) for reply in group.completions)
        right += group.weight * (1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0)
        whole += group.weight
    return right / whole


def built(*overrides: str) -> tuple[Dataset, list[str]]:
    data = ["data=local", f"data.path={FIRST_SAMPLE}", "data.min_gap=1", "data.dev_fraction=0.2"]
    config, said = check(compose(["algo=reward", *data, *overrides])), list[str]()
    return build_dataset(config, load_chat_format(config.model)[1], "pairs", said.append), said


def test_cues_tell_nothing_of_the_first_samples_weighted_pairs() -> None:
    plain, _ = built()
    found, said = built("data.balance=[length,ending]")
    assert weighted_accuracy(plain.train, "ending") > 0.8, "otherwise there would be nothing to balance"
    for cue in ("length", "ending"):
        assert weighted_accuracy(found.train, cue) == pytest.approx(0.5, abs=1e-5)
        assert f"{cue} {weighted_accuracy(plain.train, cue):.1%} -> 50.0%" in said[-1]
    weights = np.array([group.weight for group in found.train])
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    size = weights.sum() ** 2 / (weights**2).sum()
    assert f"{len(weights)} pairs have weights from {weights.min():.2f} to {weights.max():.2f}" in said[-2]
    assert f"effective sample size: {size:.0f}" in said[-2]
    assert {group.weight for group in found.held_out} == {1.0}
    assert [group.id for group in found.train] == [group.id for group in plain.train]


def test_the_fingerprint_tells_weights_and_stays_without_them() -> None:
    prints = [built(*given)[0].fingerprint() for given in ([], ["data.balance=[length]"], ["data.balance=[ending]"])]
    assert len(set(prints)) == 3
    assert built("data.balance=[]")[0].fingerprint() == prints[0]
    assert built("data.balance=[length]")[0].fingerprint() == prints[1]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([pair("Why?", "No.")] * 3, "the chosen reply has more of ending in all of the 3 pairs that differ in it"),
        ([pair("No.", "Why?"), pair("One.", "Two.")], "the rejected reply has more of ending in all of the 1 pairs"),
        ([pair("Yes.", "No.")] * 3, "ending is equal in both replies of every pair: leave ending out"),
        (
            [pair("Why?", "No.")] * 99 + [pair("No.", "Why?")],
            "weights of at most 20 times the mean balance ending alone",
        ),
    ],
)
def test_what_cannot_be_balanced_is_refused(groups: list[Group], message: str) -> None:
    with pytest.raises(UserError, match=message):
        weigh_pairs(groups, ["ending"], lambda line: None)


def test_cues_that_cannot_be_balanced_together_are_refused_together() -> None:
    """Each cue is wrong in one pair, in which both others are right, so a larger weight for it harms the others."""
    cues = ["ending", "exclamations", "commas"]
    groups = [pair("Oh, no!", "Why?"), pair("So, why?", "No!"), pair("No! Why?", "Well, yes.")]
    for cue in cues:
        weigh_pairs(groups, [cue], lambda line: None)
    with pytest.raises(UserError, match="no weights of at most 20 times the mean balance all of these cues together"):
        weigh_pairs(groups, cues, lambda line: None)
