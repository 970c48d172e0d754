"""Rules that say the same in other words: contractions, British or American spelling, and a few equivalent phrases.

Each rule returns the changed reply, or None if it finds nothing to change.
"""

import re
from collections.abc import Mapping

from psychocounsel.evaluation.counterfactuals.sentences import edited, like

_SUBJECT = r"(?:i|you|he|she|it|we|they|there|this|that)"
_EXPANDED = {
    "i'm": "I am", "you're": "you are", "we're": "we are", "they're": "they are", "i've": "I have", "you've": "you have",
    "we've": "we have", "they've": "they have", "i'll": "I will", "you'll": "you will", "we'll": "we will",
    "they'll": "they will", "it'll": "it will", "can't": "cannot", "won't": "will not", "don't": "do not",
    "doesn't": "does not", "didn't": "did not", "isn't": "is not", "aren't": "are not", "wasn't": "was not",
    "weren't": "were not", "haven't": "have not", "hasn't": "has not", "hadn't": "had not", "wouldn't": "would not",
    "couldn't": "could not", "shouldn't": "should not", "let's": "let us",
}  # fmt: skip
_CONTRACTED = {
    "i am": "I'm", "you are": "you're", "we are": "we're", "they are": "they're", "it is": "it's", "that is": "that's",
    "i have been": "I've been", "you have been": "you've been", "i will": "I'll", "you will": "you'll", "cannot": "can't",
    "do not": "don't", "does not": "doesn't", "did not": "didn't", "is not": "isn't", "are not": "aren't",
    "was not": "wasn't", "have not": "haven't", "would not": "wouldn't", "could not": "couldn't",
}  # fmt: skip
_IS = re.compile(
    r"\b(it|that|there|he|she|what|who|how)'s\b(?= (?:not|no|a|an|the|very|so|too|all|also|what|how|why|hard)\b)",
    re.IGNORECASE,
)


def _any_of(words: Mapping[str, str], after: str = "") -> re.Pattern[str]:
    """Return a pattern that matches any of the words, in any case, followed by the pattern `after`."""
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<![\w'])(?:{'|'.join(map(re.escape, longest_first))})(?![\w']){after}", re.IGNORECASE)


_TO_EXPAND = _any_of(_EXPANDED)
_ASKED_AFTER_NOT = re.compile(rf" {_SUBJECT}\b", re.IGNORECASE)  # "don't you think" cannot become "do not you think"
# No contraction at the end of a clause ("that is how it is."), nor in an indirect question ("what it is like").
_TO_CONTRACT = re.compile(
    rf"(?<!what )(?<!where )(?<!how )(?<!who )(?<!as )(?<!than ){_any_of(_CONTRACTED).pattern}(?= [a-z])", re.IGNORECASE
)


def other_contractions(text: str) -> str | None:
    """Expand all contractions; if the text has none, contract "I am" and the like."""

    def expand(found: re.Match[str]) -> str | None:
        word = found[0].lower()
        if word.endswith("n't") and _ASKED_AFTER_NOT.match(found.string, found.end()):
            return None
        return like(_EXPANDED[word], found[0])

    expanded = edited(edited(text, _IS, lambda found: f"{found[1]} is"), _TO_EXPAND, expand)
    if expanded != text:
        return expanded
    contracted = edited(text, _TO_CONTRACT, lambda found: like(_CONTRACTED[found[0].lower()], found[0]))
    return contracted if contracted != text else None


def _spellings() -> dict[str, str]:
    """Return the American spelling of each British word, including the inflected forms of regular ones."""
    pairs = dict(word.split("/") for word in _IRREGULAR.split())
    for stem in _OUR.split():
        pairs |= {
            f"{stem}our{end}": f"{stem}or{end}" for end in ("", "s", "ed", "ing", "ite", "ites", "able", "ful", "al")
        }
    for stem in _ISE.split():
        pairs |= {f"{stem}is{end}": f"{stem}iz{end}" for end in ("e", "es", "ed", "ing", "ation", "ations")}
    for stem in _DOUBLED.split():
        pairs |= {f"{stem}l{end}": f"{stem}{end}" for end in ("ed", "ing", "er", "ers", "or", "ors", "ings")}
    return pairs


_IRREGULAR = """centre/center centres/centers centred/centered theatre/theater grey/gray mum/mom mums/moms mum's/mom's
cosy/cozy pyjamas/pajamas defence/defense licence/license analyse/analyze analysed/analyzed analysing/analyzing
catalogue/catalog judgement/judgment fulfil/fulfill fulfilment/fulfillment enrol/enroll learnt/learned dreamt/dreamed
burnt/burned tyre/tire plough/plow sceptical/skeptical ageing/aging towards/toward practise/practice practised/practiced
practising/practicing programme/program programmes/programs cheque/check cancelled/canceled jewellery/jewelry"""
_OUR = "col hon lab fav behavi neighb hum rum harb vap od endeav sav glam"
_ISE = """real organ recogn apolog critic emphas prior normal minim maxim memor fantas agon idol visual victim
stigmat familiar character summar util verbal social special stabil mobil neutral rational sympath internal general"""
_DOUBLED = "travel counsel cancel label model quarrel signal level total fuel marvel"
_AMERICAN = _spellings()
_AMBIGUOUS = frozenset(
    (
        "practice",
        "practiced",
        "program",
        "programs",
        "check",
        "tire",
        "learned",
        "dreamed",
        "burned",
        "toward",
        "license",
    )
)
_BRITISH = {american: british for british, american in _AMERICAN.items() if american not in _AMBIGUOUS}
_TO_AMERICAN, _TO_BRITISH = _any_of(_AMERICAN), _any_of(_BRITISH)


def other_spelling(text: str) -> str | None:
    """Replace British spellings by American ones; if the text has none, American by British."""
    for words, pattern in ((_AMERICAN, _TO_AMERICAN), (_BRITISH, _TO_BRITISH)):
        changed = pattern.sub(lambda found, words=words: like(words[found[0].lower()], found[0]), text)  # type: ignore[misc]
        if changed != text:
            return changed
    return None


# Phrases that can be replaced without another change to the sentence. An "a" or "an" before them stays right. The first
# 14 pairs are replaced in both directions, the others only from left to right.
_EQUALS = (
    ("it sounds like", "it seems like"), ("sounds as if", "seems as if"), ("perhaps", "maybe"), ("difficult", "hard"),
    ("frightening", "scary"), ("at the moment", "at present"), ("for example", "for instance"), ("someone", "somebody"),
    ("everyone", "everybody"), ("no one", "nobody"), ("anyone", "anybody"), ("talk about", "speak about"),
    ("a great deal", "a lot"), ("frightened", "scared"), ("thank you for", "thanks for"), ("very", "really"),
    ("would you like to", "do you want to"), ("as well", "too"), ("begin with", "start with"), ("big", "large"),
    ("no wonder", "no surprise"), ("makes sense", "is understandable"), ("such as", "like"), ("in order to", "to"),
)  # fmt: skip
_OTHER_WORDS = dict(_EQUALS) | {second: first for first, second in _EQUALS[:14]}
_TO_PARAPHRASE = re.compile(  # excludes "the very spot", "very much", "as well as", "makes sense of it"
    rf"(?<!the )(?<!that )(?<!this ){_any_of(_OTHER_WORDS).pattern}(?! (?:much|as|of|to)\b)|\b(?:a lot|a great deal)(?= of\b)",
    re.IGNORECASE,
)


def paraphrase(text: str) -> str | None:
    """Replace phrases by equivalent ones throughout the text."""
    changed = edited(text, _TO_PARAPHRASE, lambda found: like(_OTHER_WORDS[found[0].lower()], found[0]))
    return changed if changed != text else None
