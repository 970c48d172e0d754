"""The models that answered as a judge: its server may serve another model later, at the same address."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from psychocounsel.steps.tables import Row

Models = Mapping[str, Mapping[str, int]]  # the number of answers by judge and by the model name that its server gave
MOST_FREQUENT = "only verdicts of the most frequent model are scored"
ANSWERS_MIXED = "its errors on planted faults may be those of another model than its answers"


def answered_by(rows: Iterable[Row]) -> dict[str, Counter[str]]:
    """Return the models that answered, from rows with `judge` and `model`; judges whose server names no model are omitted."""
    models: dict[str, Counter[str]] = {}
    for row in rows:
        if row["model"]:
            models.setdefault(row["judge"], Counter())[row["model"]] += 1
    return models


def mixed_models(models: Models, consequence: str) -> Iterator[str]:
    """Yield a line for each judge that answered as several models; `consequence` says what follows for the figures."""
    for judge, counts in models.items():
        if len(counts) > 1:
            shares = ", ".join(f"{counts[name]:,} as {name}" for name in sorted(counts, key=lambda name: -counts[name]))
            yield f"the server of judge {judge} gave answers of several models ({shares}); {consequence}"
