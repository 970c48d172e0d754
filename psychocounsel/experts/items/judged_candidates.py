"""Candidates from a win-rate folder, so that experts judge the same pairs as the judges."""

import json
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from psychocounsel.evaluation.judging.verdict_rows import EQUAL
from psychocounsel.experts.items.candidate import PairCandidate, candidate
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.tables import Row, rows_of

ORDER = "order"  # a judge's two verdicts contradict each other
JUDGES = "judges"  # two judges prefer different replies
_SPEECH = ("speech", "messages", "topic", "risk", "language")
_VERDICT = ("speech", "first_reply", "second_reply", "judge", "order", "outcome", "overall")


def judged_candidates(files: EvaluationDir) -> Iterator[PairCandidate | None]:
    """Yield the pairs of replies with a verdict. `preferred` is the reply that judges prefer on average.

    `gap` is the absolute mean of their verdicts, which are 1, 0 or -1.
    """
    speeches = {row["speech"]: row for row in rows_of(files.speeches, _SPEECH)}
    texts = {row["reply"]: row["text"] for row in rows_of(files.replies, ["reply", "text"]) if row["reply"]}
    verdicts: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows_of(files.verdicts, _VERDICT):
        if row["overall"] is not None and row["outcome"] != EQUAL:
            turned = row["first_reply"] > row["second_reply"]
            pair = sorted((row["first_reply"], row["second_reply"]))
            side = -row["overall"] if turned else row["overall"]  # 1: the first reply of `pair` is better
            verdicts[row["speech"], pair[0], pair[1]].append(row | {"overall": side})
    for (speech, first, second), rows in verdicts.items():
        about = speeches[speech]
        mean = float(np.mean([row["overall"] for row in rows]))
        yield candidate(
            speech,
            json.loads(about["messages"]),
            texts[first],
            texts[second],
            None if mean == 0 else int(mean < 0),
            gap=abs(mean),
            flags=tuple(_doubts(rows)),
            **{name: about[name] for name in ("risk", "topic", "language")},
        )


def _doubts(rows: list[Row]) -> Iterator[str]:
    of_judge: dict[str, set[int]] = defaultdict(set)
    for row in rows:
        of_judge[row["judge"]].add(row["overall"])
    if any({1, -1} <= said for said in of_judge.values()):
        yield ORDER
    firm = {next(iter(said)) for said in of_judge.values() if len(said) == 1}
    if {1, -1} <= firm:
        yield JUDGES
