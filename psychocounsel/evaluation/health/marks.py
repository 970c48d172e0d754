"""Signs of a broken reply in its characters: an unfinished end, invented turns, leaked template tokens, junk."""

import re
import unicodedata

from psychocounsel.evaluation.health.thresholds import JUNK_CHARACTERS, JUNK_RUN, JUNK_SHARE

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
    shown = [each for each in text if each not in "\n\r\t"]
    kinds = [unicodedata.category(each) for each in shown]
    if "\ufffd" in text or any(kind in _UNPRINTABLE for kind in kinds) or _RUN.search(text):
        return True
    odd = sum(kind[0] not in _PLAIN and kind != "Cf" for kind in kinds)
    return len(shown) >= JUNK_CHARACTERS and odd > JUNK_SHARE * len(shown)
