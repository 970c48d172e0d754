"""Finds the topic of a speech: from its column, or by counting cues of psychocounsel/counsel/topics.yaml."""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from psychocounsel.counsel.rubric.strict_yaml import Problems, read_file
from psychocounsel.errors import UserError
from psychocounsel.storage.files import PACKAGE

_SHIPPED = PACKAGE / "counsel" / "topics.yaml"
_LEAST = 2  # minimum number of distinct cues


@dataclass(frozen=True)
class FineTopic:
    definition: str
    cues: tuple[str, ...]


@dataclass(frozen=True)
class CoarseTopic:
    definition: str
    fine: dict[str, FineTopic]


@dataclass(frozen=True)
class Topic:
    """The coarse and fine topic of a speech, either of which may be unknown (None); `source` is `column`, `rules` or None."""

    coarse: str | None
    fine: str | None
    source: str | None


@dataclass(frozen=True)
class TopicRules:
    """All topics and the cues of each fine topic.

    Each cue is stored as its fixed part, which is fast to search for, and its full pattern.
    """

    coarse_of: dict[str, str]  # fine topic -> coarse topic
    patterns: dict[str, list[tuple[str, re.Pattern[str]]]]

    def of(self, text: str, column: Any = None) -> Topic:
        """Return the topic that the column states. If it states only a coarse topic, the rules choose a fine one within it.

        The rules choose the fine topic with the most distinct cues, if it has at least two and no other has as many; otherwise
        the fine topic is unknown. Without a column, they first choose the coarse topic in the same way, from the cues of all its
        fine topics, and then a fine topic within it.
        """
        name = re.sub(r"[\s-]+", "_", column.strip().casefold()) if isinstance(column, str) else ""
        if name in self.coarse_of:
            return Topic(self.coarse_of[name], name, "column")
        coarse: str | None = name if name in self.coarse_of.values() else None
        small = " ".join(text.casefold().replace("\u2019", "'").split())
        counts = {
            fine: sum(part in small and pattern.search(small) is not None for part, pattern in cues)
            for fine, cues in self.patterns.items()
            if coarse in (None, self.coarse_of[fine])
        }
        if coarse:
            return Topic(coarse, _leader(counts), "column")
        whole: dict[str, int] = {}
        for name, count in counts.items():
            whole[self.coarse_of[name]] = whole.get(self.coarse_of[name], 0) + count
        coarse = _leader(whole)
        fine = _leader({name: count for name, count in counts.items() if self.coarse_of[name] == coarse})
        return Topic(coarse, fine, "rules" if coarse else None)


def _leader(counts: dict[str, int]) -> str | None:
    """Return the name with the highest count if that is at least 2 and not a tie, otherwise None."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    if not ranked or ranked[0][1] < _LEAST or (len(ranked) > 1 and ranked[1][1] == ranked[0][1]):
        return None
    return ranked[0][0]


@cache
def read_topics(where: str = "builtin:en") -> TopicRules:
    """Return the topics of a file, or the shipped ones.

    Raises:
        UserError: lists the problems of the file.
    """
    file, problems = _SHIPPED if where == "builtin:en" else Path(where), Problems()
    content: dict[str, CoarseTopic] = read_file(Annotated[dict[str, CoarseTopic], {}], file, problems)
    if problems:
        raise UserError(f"speeches.topics={where}: " + "; ".join(problems[:10]))
    coarse_of = {fine: coarse for coarse, topic in content.items() for fine in topic.fine}
    fines = [fine for topic in content.values() for fine in topic.fine]
    if doubled := sorted({fine for fine in fines if fines.count(fine) > 1 or fine in content}):
        raise UserError(f"speeches.topics={where}: two topics have the name {doubled[0]}")
    cues = {fine: found.cues for topic in content.values() for fine, found in topic.fine.items()}
    return TopicRules(coarse_of, {fine: [_pattern(cue) for cue in some] for fine, some in cues.items()})


def _pattern(cue: str) -> tuple[str, re.Pattern[str]]:
    """Return the fixed part of a cue and its full pattern, for text in lower case."""
    return cue.rstrip("*"), re.compile(r"\b" + re.escape(cue).replace(r"\*", r"\w*") + r"\b")
