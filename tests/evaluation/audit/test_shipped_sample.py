"""The labels of the shipped sample cannot be predicted well without reading the client."""

import pytest

from psychocounsel.data.selection.select import pairs_of
from psychocounsel.data.sources import load_examples
from psychocounsel.evaluation.audit.audited_pairs import pairs_from
from psychocounsel.evaluation.audit.blind import blind_baselines
from psychocounsel.evaluation.audit.topics import FROM_DATA, topics_of
from psychocounsel.settings.config import check, compose


@pytest.mark.slow
@pytest.mark.parametrize(
    "quartets", [True, pytest.param(False, marks=pytest.mark.proof)], ids=["all", "without quartets"]
)
def test_no_speech_blind_baseline_wins_two_thirds(quartets: bool) -> None:
    data = check(compose(["data=sample"], name="audit")).data
    rows = load_examples("builtin:sample", "train", None)
    examples = pairs_of([row for row in rows if quartets or "-flip-" not in row.id], data, "sample", print)
    pairs = pairs_from(examples)
    topics = topics_of(pairs, 0)
    assert topics.source == FROM_DATA
    found = blind_baselines(pairs, topics, folds=5, permutations=500, seed=0, workers=1)
    assert found.maximum.accuracy < 0.56 and found.maximum.p > 0.05, (
        "no cue exceeds the range that chance gives the best of 31"
    )
    for scheme in ("by_prompt", "by_topic"):
        shares = {name: figures[scheme]["accuracy"] for name, figures in found.baselines.items()}
        assert max(shares["best_cue"], shares["surface"], shares["first_words"]) < 0.58, shares
        assert max(shares.values()) < 0.66, shares
