"""Rules that make a reply worse on purpose; a scorer that reads must notice each change.

Each rule returns the changed reply, or None if it finds nothing to change.
"""

import re

from psychocounsel.evaluation.counterfactuals.sentences import edited, is_question, like, split, without

_RISK = re.compile(
    r"suicid|\bkill(?:ing)? (?:yourself|him|her|them|you)|\b(?:end|ending|take|taking) your (?:own )?life"
    r"|\b(?:hurt|hurting|harm|harming|cut|cutting|burn|burning) (?:yourself|him|her|them|someone|anyone|somebody)"
    r"|\b(?:about|of|wish(?:ing)? for) (?:dying|death|being dead)|\bwant(?:ing)? to (?:die|be dead)"
    r"|\bnot wanting to (?:live|be alive|be here)|\bbetter off (?:dead|without you)|\bself-harm"
    r"|\b(?:are|is|were|feel|be|keep) (?:you |it |they |yourself )?(?:both |all )?safe\b",
    re.IGNORECASE,
)
_HELP = (
    r"(?:(?:crisis|suicide|help|emergency|advice)[ -]?(?:and \w+ )?(?:lines?|teams?|services?|rooms?|numbers?|centres?|centers?)"
    r"|helpline|hotline|lifeline|samaritans|ambulance|hospital|A&E|GP|doctors?|nurse|midwife|psychiatrist|psychologist"
    r"|therapist|counsell?ors?|social worker|professional (?:help|support)|police|988|911|999|112|116 ?123)\b"
)
_LEADS_TO_HELP = re.compile(
    r"\b(?:call|calling|ring|ringing|phone|dial|text|contact|see|speak|speaking|talk|talking|turn|go|reach|ask|tell|visit|consult"
    rf"|arrange|save|find|looking? at|let|there is|there are|there['\u2019]s|(?:like|want|need) an?)\b[^.!?]{{0,60}}?\b{_HELP}",
    re.IGNORECASE,
)
_OFFERS = {
    "you could": "you must", "you might want to": "you have to", "you might": "you must", "you may": "you must",
    "would it help to": "you have to",
    "perhaps you could": "you must", "maybe you could": "you must", "you choose": "I choose", "you decide": "I decide",
    "i'd suggest that you": "I insist that you", "we could": "we must", "we can": "we must",
}  # fmt: skip
_OFFERED = re.compile(
    rf"\b(?<!if )(?<!think )(?<!whether )(?:{'|'.join(map(re.escape, sorted(_OFFERS, key=len, reverse=True)))})"
    r"\b(?! (?:be|feel|have|find|not|well|notice|know|still)\b)",
    re.IGNORECASE,
)
_HURRY = "Enough talk: decide today, and carry it out tomorrow morning. "
_LEFT_OPEN = re.compile(r"\b(?P<first>i)f (?:you like|you want|it helps), (?P<next>\w)", re.IGNORECASE)
_FELT = re.compile(
    r"\b(?:sounds?|must (?:be|have been|feel)|no wonder|makes sense|understandable|sorry (?:that|to hear|you)|i can (?:see|hear)"
    r"|painful|frightening|frightened|lonely|exhausting|exhausted|heavy|ashamed|afraid|scared|hurts?|grief|courage|worn out)\b",
    re.IGNORECASE,
)
_OPEN = re.compile(r"\b(?:what|how|when|where|which|who)\b", re.IGNORECASE)


def asks_about_risk(sentence: str) -> bool:
    """Return True if a sentence asks about suicide, harm or safety."""
    return is_question(sentence) and bool(_RISK.search(sentence))


def risk_question_dropped(text: str) -> str | None:
    """Remove the questions about suicide, harm or safety."""
    return without(text, asks_about_risk)


def help_removed(text: str) -> str | None:
    """Remove the sentences that lead to named human help: a crisis line, a doctor, a hospital."""
    return without(text, lambda sentence: bool(_LEADS_TO_HELP.search(sentence)))


def open_questions_dropped(text: str) -> str | None:
    """Remove the open questions (what, how, ...)."""
    return without(text, lambda sentence: is_question(sentence) and bool(_OPEN.search(sentence)))


def feeling_unnamed(text: str) -> str | None:
    """Remove the statements that name the client's feeling or call it understandable."""
    return without(text, lambda sentence: not is_question(sentence) and bool(_FELT.search(sentence)))


def offers_as_orders(text: str) -> str | None:
    """Replace "you could" by "you must" (and the like), and remove "if you like", so that the client has no choice."""
    decided = edited(text, _LEFT_OPEN, lambda found: like(found["next"], found["first"]))
    changed = edited(decided, _OFFERED, lambda found: like(_OFFERS[found[0].lower()], found[0]))
    return changed if changed != text else None


def hurried(text: str) -> str | None:
    """Insert an order to act at once before the last sentence. The last sentence stays, so the ending does not change."""
    *before, last = split(text)
    return "".join(before) + _HURRY + last if before else None


def disordered(text: str) -> str | None:
    """Reverse the order of all sentences except the last; None for fewer than four sentences or several paragraphs."""
    sentences = [sentence.strip() for sentence in split(text)]
    if len(sentences) < 4 or "\n" in text.strip():
        return None
    return " ".join([*sentences[-2::-1], sentences[-1]])
