"""Health figures of one reply: they describe its text, not its advice. docs/health.md defines each figure."""

from dataclasses import dataclass

from psychocounsel.asking.refusals import is_refusal
from psychocounsel.counsel.cues import CUES
from psychocounsel.counsel.language import sure_language_of
from psychocounsel.evaluation.health.marks import ends_unfinished, has_junk, invents_turns, leaks_tokens
from psychocounsel.evaluation.health.thresholds import GRAM
from psychocounsel.evaluation.health.words import distinct_2, has_loop, mtld, numbered, words_of
from psychocounsel.metrics.replies import repetition

LOWER, HIGHER, NEITHER = "lower", "higher", "neither"
Health = dict[str, float | None]  # a reply's figures by the names of FIGURES; None: unknown


@dataclass(frozen=True)
class Figure:
    """Definition of a health figure.

    Attributes:
        title: name in tables.
        better: direction of better values: LOWER, HIGHER or NEITHER.
        share: True if each reply has 0 or 1, so that the mean is a share of replies.
    """

    title: str
    better: str
    share: bool = True


FIGURES = {
    "empty": Figure("empty", LOWER),
    "refusal": Figure("refusal", LOWER),
    "cut": Figure("cut at max_tokens", LOWER),
    "unfinished": Figure("unfinished", LOWER),
    "loop": Figure("loop", LOWER),
    "repetition": Figure("repeated runs of four words", LOWER, share=False),
    "invented_turns": Figure("invented turns", LOWER),
    "leaked_tokens": Figure("special tokens or template", LOWER),
    "junk": Figure("junk characters", LOWER),
    "other_language": Figure("another language than the client's", LOWER),
    "mtld": Figure("lexical diversity (MTLD)", HIGHER, share=False),
    "distinct_2": Figure("different pairs of words (distinct-2)", NEITHER, share=False),
    "words": Figure("words", NEITHER, share=False),
    "characters": Figure("characters", NEITHER, share=False),
    "question_ending": Figure("ends with a question", NEITHER),
    "formatted": Figure("lists, headings or bold", NEITHER),
}


def health_of(
    reply: str, prompt: str, cut: bool | None = None, refused: bool = False, language: str | None = None
) -> Health:
    """Return the health figures of a reply.

    An empty reply has only the figures `empty` and `cut`; a reply with `refused` has only `refusal` and `cut`.

    Args:
        reply: text of the reply.
        prompt: the client's words, from which `language` is detected.
        cut: True if generation stopped at `max_tokens`; None if unknown, for instance for replies from a file.
        refused: True if the reply is known to be a refusal, by the API's own field or by its outcome.
        language: language of the client (ISO 639-1); None: detected.
    """
    found: Health = dict.fromkeys(FIGURES)
    text = reply.strip()
    found["cut"] = None if cut is None else float(cut)
    if refused:
        return found | {"refusal": 1.0}
    found["empty"] = float(not text)
    return found | _told(text, bool(cut), language or sure_language_of(prompt)) if text else found


def _told(text: str, cut: bool, client: str | None) -> Health:
    words, language = words_of(text), sure_language_of(text)
    numbers = numbered(words)
    unfinished = True if cut else ends_unfinished(text)
    return {
        "refusal": _refusal(text, language),
        "unfinished": None if unfinished is None else float(unfinished),
        "loop": float(has_loop(numbers)),
        "repetition": repetition(numbers.tolist()) if len(words) > GRAM else None,
        "invented_turns": float(invents_turns(text)),
        "leaked_tokens": float(leaks_tokens(text)),
        "junk": float(has_junk(text)),
        "other_language": float(language != client) if language and client else None,
        "mtld": mtld(words),
        "distinct_2": distinct_2(words),
        "words": float(len(words)),
        "characters": float(len(text)),
        "question_ending": CUES["ending"](text),
        "formatted": float(any(CUES[name](text) for name in ("bullets", "headings", "bold"))),
    }


def _refusal(text: str, language: str | None) -> float | None:
    """Return 1 if a reply contains an English phrase of refusal; otherwise 0, or None if it is in another language.

    No phrases of other languages are known. A text that is too short for language detection counts as English.
    """
    return 1.0 if is_refusal(text) else 0.0 if language in ("en", None) else None
