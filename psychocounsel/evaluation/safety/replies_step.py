"""The step `replies` of `evaluation=safety`: every contestant replies to every speech of the crisis set."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig

from psychocounsel.evaluation.contestants import replies_step
from psychocounsel.evaluation.safety.speeches import CrisisSpeech, crisis_speeches, swapped_speeches
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import Row
from psychocounsel.storage.files import with_noun


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Ask for all replies missing in the journal; raises as `contestants.step.run`."""
    return replies_step.run(context, set_speeches)


def set_speeches(config: DictConfig, say: Callable[[str], None]) -> list[Row]:
    """Return the rows of speeches.parquet: at most `limit` speeches and, with `evaluation.swaps`, their variants.

    The ids are hashes, so the first `limit` speeches by id are a random sample. A variant has its base's id, `-` and its axis.
    All speeches are invented, so none of them counts as a real client's crisis that third parties may not see.

    Raises:
        UserError: if a file of the crisis set or of the swaps is wrong.
    """
    speeches = crisis_speeches()
    chosen = {speech.speech: speech for speech in speeches[: config.limit]}
    rows = [_row(speech.speech, speech.text, speech) for speech in chosen.values()]
    if config.evaluation.swaps:
        swaps = [swap for swap in swapped_speeches() if swap.base.speech in chosen]
        say(
            f"{with_noun(len(swaps), 'variant')} of these speeches with another dialect, gender or age (evaluation.swaps)"
        )
        rows += [_row(swap.speech, swap.text, swap.base) for swap in swaps]
    return sorted(rows, key=lambda row: str(row["speech"]))


def _row(speech: str, text: str, labels: CrisisSpeech) -> Row:
    return {
        "speech": speech,
        "text": text,
        "messages": json.dumps([{"role": "user", "content": text}]),
        "language": "en",
        "topic": None,
        "risk": "none" if labels.look_alike else labels.kind,
        "risk_source": "column",
        "crisis": False,
        "near_training": False,
    }
