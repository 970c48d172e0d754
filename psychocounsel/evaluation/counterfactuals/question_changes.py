"""Rules that turn a question into a statement with the same meaning, or the reverse, so that only the ending differs."""

import re

from psychocounsel.evaluation.counterfactuals.content_changes import asks_about_risk
from psychocounsel.evaluation.counterfactuals.sentences import is_question, replaced, small_first, split

_PRONOUN = r"(?P<who>you|I|we|they|he|she|it)"
_AUX = r"(?P<aux>do|are|is|was|were|am|have|has|had|can|could|would|will|should|might|may|must)"
_ASKED = r"(?P<asked>(?:what|who|where|when|why|how)(?: else| long| much| often| many| soon| well)?|(?:which|what|how many) \w+)"
_ASKS_WITH = re.compile(rf"{_ASKED} {_AUX} {_PRONOUN}\b(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_ASKS_WHETHER = re.compile(rf"{_AUX} {_PRONOUN}\b(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_ASKS_OF_SUBJECT = re.compile(r"(?:what|who|which|how much|how many)\b(?!['\u2019]).*", re.IGNORECASE | re.DOTALL)
_HOW_ABOUT = re.compile(r"(?:how|what) (?:about|if)\b|what else\W*$|what (?:for|now)\W*$", re.IGNORECASE)
_TURNED = re.compile(
    r"\b(?:do|does|did|are|is|was|were|am|have|has|had|can|could|would|will|should|might|may|must|shall)(?:n't)? "
    r"(?:you|I|we|they|he|she|it)\b",
    re.IGNORECASE,
)
_OPENING = re.compile(r"(?:and|but|so|then|well|now),? ", re.IGNORECASE)
_TOO_MUCH = re.compile(r"[;:\u2013\u2014\"\u201c]|, or |\?.*\?")  # several clauses: the rule would turn only one
_STATES = re.compile(
    r"(?:You|It|That|This|There|Your|The)\b.*\b(?:you|your|you're|you've)\b", re.IGNORECASE | re.DOTALL
)
_LONGEST = 25  # most words of a statement that may get ", is that right?"


def question_as_statement(text: str) -> str | None:
    """Turn the last question into "I wonder ..."; None if no question exists or its form is unsafe to turn.

    A question about risk is never turned, because counsellors must ask it directly.
    """
    sentences = split(text)
    places = [index for index, sentence in enumerate(sentences) if is_question(sentence)]
    if not places or asks_about_risk(sentences[places[-1]]):
        return None
    statement = _indirect(sentences[places[-1]].strip())
    return None if statement is None else replaced(text, places[-1], statement)


def statement_as_question(text: str) -> str | None:
    """Append ", is that right?" to the last sentence if it states something about the client; otherwise None."""
    sentences = split(text)
    last = sentences[-1].strip() if sentences else ""
    if not last.endswith(".") or last.endswith("..") or len(last.split()) > _LONGEST or not _STATES.match(last):
        return None
    return replaced(text, len(sentences) - 1, f"{last[:-1]}, is that right?")


def _indirect(question: str) -> str | None:
    """Turn "What do you want?" into "I wonder what you want."; None if finding the word order needs a parser."""
    plain = question.rstrip("?").rstrip()
    opening = _OPENING.match(plain)
    plain = plain[opening.end() :] if opening else plain
    if _TOO_MUCH.search(question) or plain.endswith((".", "!", '"', "'", ")")) or _HOW_ABOUT.match(plain):
        return None
    turned = len(_TURNED.findall(plain))
    if turned == 1 and (found := _ASKS_WITH.fullmatch(plain)):
        return _wonder(f"{_low(found['asked'])} {_clause(found)}")
    if turned == 1 and (found := _ASKS_WHETHER.fullmatch(plain)):
        return _wonder(f"whether {_clause(found)}")
    if not turned and _ASKS_OF_SUBJECT.fullmatch(plain) and not re.search(r"\b(?:do|does|did)\b", plain, re.IGNORECASE):
        return _wonder(small_first(plain))
    return None


def _clause(found: re.Match[str]) -> str:
    """Put the subject before the verb: "do you want" becomes "you want", "could you say" becomes "you could say"."""
    who = "I" if found["who"] in ("I", "i") else found["who"].lower()
    verb = "" if found["aux"].lower() == "do" else f" {found['aux'].lower()}"
    return f"{who}{verb}{found['rest']}"


def _low(words: str) -> str:
    return words[0].lower() + words[1:]


def _wonder(what: str) -> str:
    return f"I wonder {what}."
