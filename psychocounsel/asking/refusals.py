"""Detects refusals in prose: a model that says it cannot help has given neither a reply nor a rating."""

import re

_SHOWN = 200  # characters at the beginning of a text that are searched for a refusal
_START = re.compile(
    r"""\A[\s"'*_>]*
    (?:(?:i['\u2019]?m|i\sam|we['\u2019]?re)\s(?:really\s|very\s|so\s|truly\s)?(?:sorry|afraid)\b[^"\u201c]{0,80}?\b(?:but|that|[,.])?\s*)?
    (?:(?:sorry|apologies|unfortunately|as\san\sai[\w\s]{0,40})[,.]?\s*(?:but\s)?)?
    (?:i['\u2019]?m|i\sam|i)\s
    (?:really\s)?(?:can(?:not|['\u2019]?t|\snot)|won['\u2019]?t|will\snot|unable\sto|not\sable\sto|not\scomfortable)\s
    (?:be\sable\sto\s|really\s)?
    (?:help(?:ing)?\b(?!\s(?:but|wonder|notic|feel|think|hear|worry|imagin|him|her|them|you\s(?:decid|choos|chang|fix)))
      |(?:assist(?:ing)?|fulfil\w*|comply|continue|continuing|rate|rating|evaluate|evaluating|create|generate)\b
      |(?:do|write|discuss)\s(?:that|this|it)\s*(?:[.,;!]|\Z)|support\sthis\b
      |(?:provid|giv|offer)\w*\s(?:you\s)?(?:with\s)?(?:(?:the|any|this|that|such|kind|type|of)\s)*
       (?:help|support|therapy|counsell?ing|assistance|services?|information|content|ratings?|evaluations?|responses?
         |(?:medical|legal|professional|mental\shealth)\s(?:advice|help|support))\b
      |(?:answer|giv|offer|writ|discuss|respond|engag|provid)\w*\s(?:[\w\s]{1,20}?\s)??(?:(?:to|with|in|on|about)\s)?
       (?:this|that|your)\s(?:request|question|prompt|task|topic|subject|conversation)s?\b(?!\sfor\s))""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_POLICY = re.compile(
    r"(?:against|violat\w+) (?:my|our) (?:\w+ )?(?:guidelines|polic(?:y|ies))|content polic(?:y|ies)"
    r"|as an ai(?: language)? model,? i (?:can(?:not|['\u2019]?t)|do not|don['\u2019]?t) (?:have|provide|offer|engage)",
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Return True if an English text begins by refusing the task.

    A limit that a counsellor sets inside a reply is not a refusal ("I can't decide this for you", "I won't give you easy
    answers"). Therefore only the first 200 characters are read, and only phrases that refuse the task itself count.
    """
    start = text[:_SHOWN]
    return bool(_START.search(start) or _POLICY.search(start))
