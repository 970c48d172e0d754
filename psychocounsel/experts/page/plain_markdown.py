"""Converter of consent and support texts to HTML: headings, lists and paragraphs; everything else stays text."""

from collections.abc import Iterator

from markupsafe import Markup, escape


def html_of(text: str, heading: int) -> Markup:
    """Return the text as HTML. Headings of the first level become h`heading`; lines with `- ` become a list."""
    blocks = [block.strip().splitlines() for block in text.replace("\r\n", "\n").split("\n\n") if block.strip()]
    return Markup("\n").join(each for block in blocks for each in _block(block, heading))


def _block(lines: list[str], heading: int) -> Iterator[Markup]:
    while lines and lines[0].startswith("#"):
        marks = len(lines[0]) - len(lines[0].lstrip("#"))
        level = min(heading + marks - 1, 6)
        yield Markup("<h{0}>{1}</h{0}>").format(level, lines[0].lstrip("#").strip())
        lines = lines[1:]
    words = list[str]()
    items = list[str]()
    for line in lines:
        if line.startswith(("- ", "* ")):
            items.append(line[2:])
        elif items:
            items[-1] += " " + line.strip()
        else:
            words.append(line.strip())
    if words:
        yield Markup("<p>{}</p>").format(" ".join(words))
    if items:
        yield Markup("<ul>{}</ul>").format(
            Markup("").join(Markup("<li>{}</li>").format(escape(each)) for each in items)
        )
