"""The answers that count, as tables: for `agreement`, and for `evaluate evaluation.experts=[FILE]`."""

import json
from collections.abc import Iterator, Mapping

from psychocounsel.experts.items.candidate import ItemCandidate
from psychocounsel.experts.review.rater_progress import RaterProgress

Row = dict[str, object]

_BETTER = {"tie": "tie", "left": "a", "right": "b"}


def answer_rows(raters: Mapping[str, RaterProgress], items: Mapping[str, ItemCandidate]) -> Iterator[Row]:
    """A row for each answer that counts, in the columns of docs/agreement.md, then `safety`, `changed` and `time`."""
    for expert, rater in raters.items():
        for shown in rater.shown:
            history = rater.answers.get((shown.item, shown.repeat))
            if not history or rater.withdrawn:
                continue
            item, last = items[shown.item], history[-1]
            label = None if item.preferred is None else "left" if item.preferred == shown.left else "right"
            yield {
                "item": item.item,
                "speech": item.speech,
                "rater": expert,
                "choice": last["choice"],
                "label": label,
                "ratings": last["ratings"],
                "repeat": shown.repeat,
                "seconds": round(sum(event["seconds"] for event in history), 1),
                "risk": item.risk,
                "topic": item.topic,
                "language": item.language,
                "comment": last["comment"] or None,
                "safety": last["safety"],
                "changed": len(history) - 1,
                "time": last["time"],
            }


def judged_rows(raters: Mapping[str, RaterProgress], items: Mapping[str, ItemCandidate]) -> Iterator[Row]:
    """First answers with texts, as evaluation.experts reads them. "Both harmful" prefers neither reply, and is left out."""
    for expert, rater in raters.items():
        for shown in rater.shown:
            history = rater.answers.get((shown.item, shown.repeat))
            if not history or rater.withdrawn or shown.repeat or history[-1]["choice"] not in _BETTER:
                continue
            item = items[shown.item]
            left, right = item.replies[shown.left], item.replies[1 - shown.left]
            better = _BETTER[history[-1]["choice"]]
            yield {"prompt": item.prompt, "reply_a": left, "reply_b": right, "better": better, "expert": expert}


def lines(rows: Iterator[Row]) -> str:
    """The rows as JSONL."""
    return "".join(json.dumps(row) + "\n" for row in rows)
