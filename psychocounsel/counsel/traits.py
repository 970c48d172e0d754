"""Traits of a speech: its language, and its topic and risk, from their columns or by the rules in this folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from psychocounsel.counsel.strict_yaml import Problems, check_keys, read_file
from psychocounsel.errors import UserError
from psychocounsel.storage.files import PACKAGE

# Language (ISO 639-1), detected with py3langid

_SURE = 0.9  # probability from which a language counts as certain
_LETTERS = 20  # with fewer letters, probabilities are not reliable


def language_of(text: str) -> str:
    """Return the most likely language of a text."""
    return str(_identifier(False).classify(text)[0])


def sure_language_of(text: str) -> str | None:
    """Return the language of a text, or None if it has fewer than 20 letters or no language reaches a probability of 0.9.

    A Chinese, Japanese or Korean character counts as three letters, because py3langid reads bytes.
    """
    letters = sum(3 if letter >= "\u3040" else 1 for letter in text if letter.isalpha())
    if letters < _LETTERS:
        return None
    language, probability = _identifier(True).classify(text)
    return str(language) if probability >= _SURE else None


@cache
def _identifier(probabilities: bool) -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=probabilities)


# Topic: from the column, or by counting cues of topics.yaml

_TOPICS = PACKAGE / "counsel" / "topics.yaml"
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
    file, problems = _TOPICS if where == "builtin:en" else Path(where), Problems()
    content: dict[str, CoarseTopic] = read_file(Annotated[dict[str, CoarseTopic], {}], file, problems)
    if problems:
        raise UserError(f"speeches.topics={where}: " + "; ".join(problems[:10]))
    coarse_of = {fine: coarse for coarse, topic in content.items() for fine in topic.fine}
    fines = [fine for topic in content.values() for fine in topic.fine]
    if doubled := sorted({fine for fine in fines if fines.count(fine) > 1 or fine in content}):
        raise UserError(f"speeches.topics={where}: two topics have the name {doubled[0]}")
    cues = {fine: fine_topic.cues for topic in content.values() for fine, fine_topic in topic.fine.items()}
    return TopicRules(coarse_of, {fine: [_pattern(cue) for cue in some] for fine, some in cues.items()})


def _pattern(cue: str) -> tuple[str, re.Pattern[str]]:
    """Return the fixed part of a cue and its full pattern, for text in lower case."""
    return cue.rstrip("*"), re.compile(r"\b" + re.escape(cue).replace(r"\*", r"\w*") + r"\b")


# Risk: from the column, otherwise by the cues of risk_cues.yaml

_RISK_CUES = PACKAGE / "counsel" / "risk_cues.yaml"
# The kinds of counsel/principles/en/risk.yaml, dangers before circumstances, the most urgent first. If a speech has several
# risks, the table shows the first of them.
KINDS = [
    "overdose",
    "suicidal_behaviour",
    "suicidal_thoughts",
    "harm_to_others",
    "psychosis",
    "self_harm",
    "abuse",
    "mania",
    "intoxication",
    "eating_disorder",
]
CIRCUMSTANCES = ("minor", "perinatal", "elder", "no_privacy")  # no danger by themselves
KINDS += CIRCUMSTANCES
NONE, UNKNOWN = "none", "unknown"
# (kind, source) of risks, the most urgent first. Of duplicate speeches, the one that is kept gets the risk that comes
# first here. Speeches without a risk, or whose risk is unknown because nothing states it, come after all of these.
STATED_RISKS = [*((kind, by) for kind in KINDS for by in ("column", "rules")), (UNKNOWN, "column")]
_SENTENCE = re.compile(r"[^.!?\n]+")
# Cues are ignored in sentences that match this pattern. Cues in a denial count, because risk.yaml treats a denied risk
# as a risk that was mentioned.
_FIGURE = re.compile(
    r"\b(?:figure of speech|so to speak|just an expression|in (?:the|a) (?:film|movie|book|novel|song|play|game)|on tv)\b",
    re.I,
)


@dataclass(frozen=True)
class KindCues:
    cues: tuple[str, ...]
    # Patterns that cancel the cues of the same sentence.
    exceptions: Annotated[tuple[str, ...], {"at_least": 0}]


@dataclass(frozen=True)
class SpeechRisk:
    """The risk of a speech. `kind`: one of KINDS, none or unknown. `source`: column, rules or unknown."""

    kind: str
    source: str

    @property
    def crisis(self) -> bool:
        """True if the speech is treated as a crisis; unknown counts as one."""
        return self.kind != NONE


def urgency(kind: str, source: str) -> int:
    """Return the index of a risk in STATED_RISKS, or the length of that list if it is not in it."""
    return STATED_RISKS.index((kind, source)) if (kind, source) in STATED_RISKS else len(STATED_RISKS)


@dataclass(frozen=True)
class RiskRules:
    """Patterns of each kind: its cues, and the exceptions that cancel cues in the same sentence."""

    patterns: dict[str, tuple[re.Pattern[str], re.Pattern[str] | None]]
    may_clear: bool = False

    def of(self, text: str, column: Any = None) -> SpeechRisk:
        """Return the most urgent risk that the column states; if the column states nothing, the most urgent one with a cue.

        If no cue matches either, the risk is unknown, or none with `may_clear`.
        """
        if (kind := risk_of_column(column)) is not None:
            return SpeechRisk(kind, "column")
        kinds = self.kinds_in(text)
        if kinds:
            return SpeechRisk(kinds[0], "rules")
        return SpeechRisk(NONE, "rules") if self.may_clear else SpeechRisk(UNKNOWN, "unknown")

    def kinds_in(self, text: str) -> list[str]:
        """Return the kinds with a cue in the text, the most urgent first."""
        text = text.replace("\u2019", "'")
        ahead = [kind for kind in KINDS if kind in self.patterns and self.patterns[kind][0].search(text)]
        sentences = [match[0] for match in _SENTENCE.finditer(text) if not _FIGURE.search(match[0])] if ahead else []
        return [kind for kind in ahead if any(_holds(self.patterns[kind], sentence) for sentence in sentences)]


def _holds(patterns: tuple[re.Pattern[str], re.Pattern[str] | None], sentence: str) -> bool:
    cue, exception = patterns
    return bool(cue.search(sentence)) and not (exception and exception.search(sentence))


def risk_of_column(value: Any) -> str | None:
    """Return the kind that a column states, or None if the column states nothing.

    The value may be a kind, `none`, a list of kinds, or a list of mappings with the key `kind`. An empty list states
    `none`, an empty text states nothing, and any other value is unknown.
    """
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        return None if value is None else UNKNOWN
    names = [entry.get("kind") if isinstance(entry, Mapping) else entry for entry in value]
    if names == [""]:
        return None
    small = [re.sub(r"[\s-]+", "_", (name if isinstance(name, str) else "?").strip().casefold()) for name in names]
    if any(name not in (*KINDS, NONE) for name in small):
        return UNKNOWN
    return min((name for name in small if name != NONE), key=KINDS.index, default=NONE)


@cache
def read_risk_rules(where: str = "builtin:en", may_clear: bool = False) -> RiskRules:
    """Return the cues of a file, or the shipped ones.

    Raises:
        UserError: lists the problems of the file.
    """
    problems = Problems()
    file = _RISK_CUES if where == "builtin:en" else Path(where)
    content = read_file(Annotated[dict[str, KindCues], {}], file, problems)
    if not problems:
        check_keys(content, KINDS, "kinds", problems, needed=())
    patterns = {} if problems else {kind: _patterns(kind, cues, problems) for kind, cues in content.items()}
    if problems:
        raise UserError(f"speeches.risk_cues={where}: " + "; ".join(problems[:10]))
    return RiskRules(patterns, may_clear)


def _patterns(kind: str, cues: KindCues, problems: Problems) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    for expressions in (cues.cues, cues.exceptions):
        for place, expression in enumerate(expressions, 1):
            try:
                re.compile(expression)
            except re.error as error:
                problems.append(f"{kind}[{place}] is not a regular expression ({error})")
    if problems:
        return re.compile("(?!)"), None
    exception = re.compile("|".join(cues.exceptions), re.IGNORECASE) if cues.exceptions else None
    return re.compile("|".join(cues.cues), re.IGNORECASE), exception
