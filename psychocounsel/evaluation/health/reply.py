"""Health figures of one reply: they describe its text, not its advice. docs/health.md defines each figure."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from psychocounsel.asking.answer_text import is_refusal
from psychocounsel.counsel.cues import CUES
from psychocounsel.counsel.traits import sure_language_of
from psychocounsel.metrics.intervals import numbered
from psychocounsel.metrics.replies import GRAM, copied_share, repetition, words_of

# Thresholds of the health figures, and the limits that the replies of a healthy model keep.

# A `loop` is a span of words that is repeated several times in a row.
LOOP_COPIES, LOOP_WORDS = 3, 12  # anywhere: least number of copies, and least number of words of all copies together
TAIL_COPIES, TAIL_WORDS = 2, 20  # the same at the end of a reply, where a loop may have been cut

# A reply is an `echo` or a `recital` if more than this share of its words, and at least COPIED_WORDS, stand in runs of four words
# that it shares with the client or with the system prompt. The good and bad replies of the sample reach .23 and .05.
ECHO, RECITAL = 0.25, 0.10
COPIED_WORDS = 8

JUNK_RUN = 8  # copies of one character in a row
JUNK_SHARE = 0.3  # largest allowed share of odd symbols in a text of at least JUNK_CHARACTERS characters
JUNK_CHARACTERS = 20

MTLD_RATIO = 0.72  # type-token ratio at which a factor is full (McCarthy and Jarvis 2010)
MTLD_WORDS = 50  # shorter replies fill too few factors

# Largest allowed shares of replies; `beyond` compares intervals with them.
LIMITS = {
    "empty": 0.01,
    "refusal": 0.05,
    "cut": 0.05,
    "unfinished": 0.10,
    "loop": 0.02,
    "echo": 0.01,
    "recital": 0.01,
    "invented_turns": 0.01,
    "leaked_tokens": 0.01,
    "junk": 0.01,
    "other_language": 0.02,
}

# Words of a reply: loops among them, and their diversity.


def has_loop(words: np.ndarray) -> bool:
    """Return True if a span of `words` (their numbers) is repeated several times in a row.

    A loop has at least three copies with 12 words or more together; at the end of the reply, two copies with 20 words or
    more suffice. A further partial copy at the end counts towards the words, but not as a copy.
    """
    for period in range(1, len(words) // 2 + 1):
        differ = np.flatnonzero(words[period:] != words[:-period])
        edges = np.concatenate(([-1], differ, [len(words) - period]))
        runs = np.diff(edges) - 1 + period  # length of each stretch that repeats with this period [words]
        if runs.max() >= max(LOOP_WORDS, LOOP_COPIES * period) or runs[-1] >= max(TAIL_WORDS, TAIL_COPIES * period):
            return True
    return False


def distinct_2(words: Sequence[str]) -> float | None:
    """Return the share of distinct pairs among all pairs of neighbouring words (distinct-2, Li et al. 2016).

    The result is None for fewer than two words.
    """
    pairs = list(pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else None


def mtld(words: Sequence[str]) -> float | None:
    """Return the measure of textual lexical diversity: words per factor (MTLD, McCarthy and Jarvis 2010).

    A factor is a stretch of words whose type-token ratio has fallen to 0.72 or below; the remaining words count as a
    fraction of a factor. The result is the mean of reading forwards and backwards. It is None for fewer than 50 words, or
    if no word is repeated.
    """
    if len(words) < MTLD_WORDS:
        return None
    factors = [_factors(words), _factors(words[::-1])]
    return sum(len(words) / count for count in factors) / 2 if all(factors) else None


def _factors(words: Sequence[str]) -> float:
    full, seen, length = 0, set[str](), 0
    for word in words:
        seen.add(word)
        length += 1
        if len(seen) / length <= MTLD_RATIO:
            full, seen, length = full + 1, set(), 0
    return full + ((1 - len(seen) / length) / (1 - MTLD_RATIO) if length else 0.0)


# Signs of a broken reply in its characters: an unfinished end, invented turns, leaked template tokens, junk.

# Marks that end a sentence: Latin, full-width, Arabic, Urdu, Devanagari, Armenian, Ethiopic.
_ENDS = ".!?\u2026\u3002\uff01\uff1f\uff0e\uff61\u061f\u06d4\u0964\u0965\u0589\u1362"
_AFTER_END = "\"'`*_~)]}\u00bb\u00ab\u201c\u201d\u2019\u2018\u203a\u300d\u300f\u3011\u300b\uff09"
_SMILEY = re.compile(r"[:;=]['-]?[)(DP3]\s*\Z")
_LIST_ITEM = re.compile(r"(?:[-*\u2022]|\d+[.)])\s+\S")
_UNMARKED = ("THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")  # scripts whose sentences need no final mark

_NAMES = (
    "clients?|users?|humans?|patients?|therapists?|counsell?ors?|psychologists?|assistants?|ai|bot|supporter|seeker"
    "|klient(?:in)?|patientin|nutzer(?:in)?|therapeut(?:in)?|berater(?:in)?"
    "|cliente|patiente|utilisateur|th\u00e9rapeute|conseill(?:er|\u00e8re)"
    "|usuari[oa]|paciente|terapeuta|asistente|utente|paziente|psicolog[oa]|psic\u00f3log[oa]"
    "|\u6765\u8bbf\u8005|\u6c42\u52a9\u8005|\u7528\u6237|\u5ba2\u6237|(?:\u5fc3\u7406)?\u54a8\u8be2\u5e08|\u52a9\u624b"
)
_TURN = re.compile(
    rf"""(?:^[ \t]*|(?<=[^\d\s][.!?]|.[\u2026\u3002\uff01\uff1f"\u201d])[ \t]+)(?:\*\*|__|\#{{1,4}}[ ]|>[ ])?(?:{_NAMES})
    (?:[ ]\d)?(?:\*\*|__)?[ \t]*[:\uff1a]""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_LEAKED = re.compile(
    r"""<\|[\w /-]{1,40}\|>|<\uff5c[^\uff5c>]{1,40}\uff5c>      # <|im_end|>, <|eot_id|>
    |</?(?:s|unk|pad|bos|eos|mask|think|thinking|start_of_turn|end_of_turn)>
    |\[/?INST\]|<</?SYS>>|\[/?SYSTEM_PROMPT\]|\[(?:PAD|UNK|CLS|SEP|EOS|BOS|gMASK)\]
    |\{\{.{0,80}?\}\}|\{%.{0,80}?%\}                            # Jinja
    |^\#{2,4}[ ]*(?:Instruction|Input|Response|Human|Assistant|User)s?[ ]*:?[ \t]*$
    |\u0120[a-z]|\u010a|\u2581                                  # a space or new line of a tokenizer""",
    re.VERBOSE | re.MULTILINE,
)
_RUN = re.compile(rf"([^\s\w=*~#|-])\1{{{JUNK_RUN - 1},}}|([^\W_])\2{{{JUNK_RUN - 1},}}")
_UNPRINTABLE = ("Cc", "Cn", "Co", "Cs")
_PLAIN = "LMNPZ"  # Unicode categories of letters, accents, numbers, punctuation marks and spaces


def ends_unfinished(text: str) -> bool | None:
    """Return True if a reply stops without a mark that ends a sentence.

    Closing quotes, brackets and markdown may follow the mark, and an emoji ends a sentence as well. The result is None if
    no mark is needed: the last line is a list item, or its script uses none (Thai, Lao, Khmer, Burmese, Tibetan).
    """
    if _SMILEY.search(text):
        return False
    for character in reversed(text):
        if character in _ENDS or unicodedata.category(character) in ("So", "Sk"):
            return False
        if character.isspace() or character in _AFTER_END or unicodedata.category(character) in ("Cf", "Mn"):
            continue
        unmarked = unicodedata.name(character, "").startswith(_UNMARKED)
        return None if unmarked or _LIST_ITEM.match(text.rstrip().rpartition("\n")[2].lstrip()) else True
    return None


def invents_turns(text: str) -> bool:
    """Return True if a line or sentence begins with a speaker's name and a colon: "Client:", "**User**:", "Therapist 2:".

    Names are known in English, German, French, Spanish, Italian and Chinese. Names after a bullet or a number do not count,
    because they belong to a list of people who could help.
    """
    return bool(_TURN.search(text))


def leaks_tokens(text: str) -> bool:
    """Return True if the text contains special tokens or parts of a chat template: <|im_end|>, [INST], {{ content }}, ..."""
    return bool(_LEAKED.search(text))


def has_junk(text: str) -> bool:
    """Return True if a text holds unprintable characters, a character eight times in a row, or many odd symbols.

    Lines drawn with - _ = * ~ # | are not junk. Odd symbols are all characters except letters, accents, numbers,
    punctuation marks and spaces. They count as junk if they make up more than 30 % of a text of at least 20 characters, so
    a few emoji are allowed.
    """
    shown = [character for character in text if character not in "\n\r\t"]
    kinds = [unicodedata.category(character) for character in shown]
    if "\ufffd" in text or any(kind in _UNPRINTABLE for kind in kinds) or _RUN.search(text):
        return True
    odd = sum(kind[0] not in _PLAIN and kind != "Cf" for kind in kinds)
    return len(shown) >= JUNK_CHARACTERS and odd > JUNK_SHARE * len(shown)


# All figures of a reply.

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
    "echo": Figure("echo of the client", LOWER),
    "recital": Figure("recital of the system prompt", LOWER),
    "copied": Figure("words in runs taken from the client", LOWER, share=False),
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


# Signs by which a reply counts as unhealthy: a win rate counts it as lost against a healthy reply.
UNHEALTHY = ("empty", "cut", "loop", "echo", "recital", "other_language")


def unhealthy(health: Health) -> list[str]:
    """Return the signs of UNHEALTHY that a reply shows."""
    return [name for name in UNHEALTHY if health[name]]


def health_of(
    reply: str,
    prompt: str,
    cut: bool | None = None,
    refused: bool = False,
    language: str | None = None,
    system_prompt: str | None = None,
) -> Health:
    """Return the health figures of a reply.

    An empty reply has only the figures `empty` and `cut`; a reply with `refused` has only `refusal` and `cut`.

    Args:
        reply: text of the reply.
        prompt: the client's words, from which `language` is detected.
        cut: True if generation stopped at `max_tokens`; None if unknown, for instance for replies from a file.
        refused: True if the reply is known to be a refusal, by the API's own field or by its outcome.
        language: language of the client (ISO 639-1); None: detected.
        system_prompt: the text that the model got before the client's words; None: none, so `recital` is unknown.
    """
    figures: Health = dict.fromkeys(FIGURES)
    text = reply.strip()
    figures["cut"] = None if cut is None else float(cut)
    if refused:
        return figures | {"refusal": 1.0}
    figures["empty"] = float(not text)
    if not text:
        return figures
    words = words_of(text)
    copied = copied_share(words, words_of(prompt))
    figures |= {"copied": copied, "echo": _copies(words, copied, ECHO)}
    if system_prompt:
        figures["recital"] = _copies(words, copied_share(words, words_of(system_prompt)), RECITAL)
    return figures | _of_text(text, words, bool(cut), language or sure_language_of(prompt))


def _copies(words: Sequence[str], share: float, limit: float) -> float:
    return float(share > limit and share * len(words) >= COPIED_WORDS)


def _of_text(text: str, words: Sequence[str], cut: bool, client: str | None) -> Health:
    language = sure_language_of(text)
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
