"""Pages of a review as HTML, rendered from templates."""

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from psychocounsel.experts.items.candidates import Shown
from psychocounsel.experts.items.pairs import rating_rules
from psychocounsel.experts.page.forms import MOST_CHARACTERS
from psychocounsel.experts.review.blind_review import BlindReview, NextStep, PracticeItem

# Pages

TEMPLATES = Path(__file__).parent / "templates"

_PAUSES = {
    "crisis": "You have read several speeches of clients at risk in a row.",
    "stretch": "You have worked for a while without a break.",
    "day": "You have done enough for today. Thank you.",
}


class PageViews:
    """Renderer of one review's pages. Every text is escaped: a speech of `<script>` stays text."""

    def __init__(self, review: BlindReview, support: str) -> None:
        self._review, self._support = review, support
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )

    def page(self, name: str, root: str, status: str = "", **about: Any) -> str:
        """Return a template's page. `root` is the relative address of the expert's folder, such as `./` or `../../`."""
        options = self._review.options
        shared = {"title": options.title, "root": root, "contact": options.contact, "status": status}
        shared |= {"support": self.support, "limit": MOST_CHARACTERS}
        return self._templates.get_template(f"{name}.html.jinja").render(**shared, **about)

    @cached_property
    def support(self) -> Markup:
        return html_of(self._support, 3)

    @cached_property
    def consent(self) -> Markup:
        return html_of(self._review.consent, 2)

    def item(self, expert: str, shown: Shown, root: str, status: str = "") -> str:
        """Return the form of an item, filled with the expert's earlier answer if there is one."""
        review, item = self._review, self._review.item(shown)
        rater, kind = review.raters[expert], review.plan.kind
        history = rater.answers.get((shown.item, shown.repeat), [])
        return self.page(
            kind.template,
            root,
            status,
            prompt=[message for message in item.prompt if message["role"] != "system"],
            answer=history[-1] if history else None,
            changes=len(history),
            number=list(rater.shown).index(shown) + 1,
            total=len(rater.shown),
            done=len(rater.answers),
            crisis=item.crisis,
            item_id=shown.item,
            repeat=shown.repeat,
            **kind.shown(item, shown, review.options, review.rubric),
        )

    def practice(self, practice: PracticeItem, root: str, status: str) -> str:
        count, share = self._review.options.practice, self._review.options.practice_share
        anchor = self._rules(practice)
        about = {"number": practice.number % count + 1, "total": count, "again": practice.number >= count}
        needed = math.ceil(round(share * count, 9))
        return self.page("practice", root, status, practice=practice, anchor=anchor, needed=needed, **about)

    def feedback(self, practice: PracticeItem, choice: str, root: str) -> str:
        anchor = self._rules(practice)
        return self.page("feedback", root, practice=practice, choice=choice, anchor=anchor)

    def _rules(self, practice: PracticeItem) -> dict[str, Any]:
        return next(rules for rules in rating_rules(self._review.rubric) if rules["name"] == practice.principle)

    def pause(self, step: NextStep, root: str) -> str:
        assert step.pause is not None
        until = step.pause.until.strftime("%H:%M" if step.pause.why != "day" else "%d %B")
        return self.page("pause", root, why=_PAUSES[step.pause.why], until=until, day=step.pause.why == "day")

    def answers(self, expert: str, root: str) -> str:
        """Return the page of the expert's own answers, each with a link to change it."""
        rater, rubric, label = self._review.raters[expert], self._review.rubric, self._review.plan.kind.label
        rows = [
            {
                "number": number,
                "item": shown.item,
                "repeat": shown.repeat,
                "choice": label(history[-1], rubric),
                "changes": len(history) - 1,
                "began": self._review.item(shown).prompt[-1]["content"][:80],
                "crisis": self._review.item(shown).crisis,
                "history": [label(event, rubric) for event in history[:-1]],
            }
            for number, shown in enumerate(rater.shown, 1)
            if (history := rater.answers.get((shown.item, shown.repeat)))
        ]
        return self.page("answers", root, rows=rows)


# Consent and support texts as HTML


def html_of(text: str, heading: int) -> Markup:
    """Return the text as HTML. Headings of the first level become h`heading`; lines with `- ` become a list."""
    blocks = [block.strip().splitlines() for block in text.replace("\r\n", "\n").split("\n\n") if block.strip()]
    return Markup("\n").join(element for block in blocks for element in _block(block, heading))


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
            Markup("").join(Markup("<li>{}</li>").format(escape(item)) for item in items)
        )
