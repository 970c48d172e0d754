"""Finds the risk in a speech: from its column, otherwise by the cues of psychocounsel/counsel/risk_cues.yaml."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from psychocounsel.counsel.rubric.strict_yaml import Problems, check_keys, read_file
from psychocounsel.errors import UserError
from psychocounsel.storage.files import PACKAGE

_SHIPPED = PACKAGE / "counsel" / "risk_cues.yaml"
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
        found = self.kinds_in(text)
        if found:
            return SpeechRisk(found[0], "rules")
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
    names = [each.get("kind") if isinstance(each, Mapping) else each for each in value]
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
    file = _SHIPPED if where == "builtin:en" else Path(where)
    content = read_file(Annotated[dict[str, KindCues], {}], file, problems)
    if not problems:
        check_keys(content, KINDS, "kinds", problems, needed=())
    patterns = {} if problems else {kind: _patterns(kind, cues, problems) for kind, cues in content.items()}
    if problems:
        raise UserError(f"speeches.risk_cues={where}: " + "; ".join(problems[:10]))
    return RiskRules(patterns, may_clear)


def _patterns(kind: str, cues: KindCues, problems: Problems) -> tuple[re.Pattern[str], re.Pattern[str] | None]:
    found = []
    for expressions in (cues.cues, cues.exceptions):
        for place, expression in enumerate(expressions, 1):
            try:
                re.compile(expression)
            except re.error as error:
                problems.append(f"{kind}[{place}] is not a regular expression ({error})")
    if not problems:
        found = [re.compile("|".join(some), re.IGNORECASE) if some else None for some in (cues.cues, cues.exceptions)]
    return (found[0], found[1]) if found and found[0] else (re.compile("(?!)"), None)
