"""HTML in texts of web pages, and the plain text that `data.html=text` makes of it."""

import html
import re
from collections.abc import Mapping
from typing import Any

_LINES = "p|div|br|li|ul|ol|h[1-6]|tr|table|blockquote|pre|hr|section|article"  # tags that begin or end a line
_INLINE = "a|abbr|b|big|center|cite|code|em|font|i|img|mark|q|small|span|strike|strong|sub|sup|td|th|tbody|thead|u"
# All patterns take time in proportion to the text: a run of spaces is read from its first one alone.
_BREAK = re.compile(rf"(?:(?<!\s)\s+)?</?(?:{_LINES})(?:\s[^<>]*)?/?>\s*", re.IGNORECASE)
_HIDDEN = re.compile(r"<(script|style)\b|<!--", re.IGNORECASE)
_ENDS = {
    "script": re.compile(r"</script\s*>", re.IGNORECASE),
    "style": re.compile(r"</style\s*>", re.IGNORECASE),
    "": re.compile("-->"),
}
_TAG = re.compile(rf"</?(?:{_LINES}|{_INLINE})(?:\s[^<>]*)?/?>", re.IGNORECASE)  # <think> and <s> are texts
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z]\w{1,10});", re.IGNORECASE)


def has_html(text: str) -> bool:
    """Return True for a text with a tag or an entity of HTML, such as `<p>` or `&nbsp;`."""
    return any(_TAG.finditer(text)) or any(html.unescape(entity[0]) != entity[0] for entity in _ENTITY.finditer(text))


def without_html(value: Any) -> Any:
    """Return a text without tags and entities, one paragraph a line. Texts inside lists and mappings are converted, too."""
    if isinstance(value, Mapping):
        return {name: without_html(part) for name, part in value.items()}
    if isinstance(value, list):
        return [without_html(part) for part in value]
    if not isinstance(value, str) or not has_html(value):
        return value
    text = _TAG.sub("", _BREAK.sub("\n", _without_hidden(value)))
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), text)
    lines = [line.strip() for line in text.replace("\xa0", " ").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _without_hidden(text: str) -> str:
    """Return a text without scripts, styles and comments; one that never ends stays."""
    kept, place, endless = list[str](), 0, set[str]()
    for opened in _HIDDEN.finditer(text):
        kind = (opened[1] or "").lower()
        if opened.start() < place or kind in endless:
            continue
        if closed := _ENDS[kind].search(text, opened.end()):
            kept.append(text[place : opened.start()])
            place = closed.end()
        else:
            endless.add(kind)
    return "".join([*kept, text[place:]])
