"""The risk in a speech: from its column, or by the cues of psychocounsel/counsel/risk_cues.yaml; where neither tells, unknown."""

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
# The kinds of counsel/principles/en/risk.yaml, dangers before circumstances, the most urgent first: of several risks the first
# one stands in the table.
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
CIRCUMSTANCES = ("minor", "perinatal", "elder", "no_privacy")  # alone they are no danger
KINDS += CIRCUMSTANCES
NONE, UNKNOWN = "none", "unknown"
# What a row can say of risk, the most urgent first, with who says it: of doubles the first of these counts. Rows that name no
# risk (none, or unknown because nobody says anything) stand after all of them.
STATED_RISKS = [*((kind, by) for kind in KINDS for by in ("column", "rules")), (UNKNOWN, "column")]
_SENTENCE = re.compile(r"[^.!?\n]+")
# What takes back all cues of a sentence. A denial does not: by risk.yaml a denied risk is one that has been brought up.
_FIGURE = re.compile(
    r"\b(?:figure of speech|so to speak|just an expression|in (?:the|a) (?:film|movie|book|novel|song|play|game)|on tv)\b",
    re.I,
)


@dataclass(frozen=True)
class KindCues:
    cues: tuple[str, ...]
    # What takes the cues of a sentence back.
    exceptions: Annotated[tuple[str, ...], {"at_least": 0}]


@dataclass(frozen=True)
class SpeechRisk:
    """`kind`: one of KINDS, none or unknown. `source`: column, rules or unknown."""

    kind: str
    source: str

    @property
    def crisis(self) -> bool:
        """Whether the speech is treated as a crisis: unknown counts as one."""
        return self.kind != NONE


def urgency(kind: str, source: str) -> int:
    """The place of a risk among STATED_RISKS; their number if it is none of them."""
    return STATED_RISKS.index((kind, source)) if (kind, source) in STATED_RISKS else len(STATED_RISKS)


@dataclass(frozen=True)
class RiskRules:
    """Patterns of each kind: cues, and what takes the cues of the same sentence back."""

    patterns: dict[str, tuple[re.Pattern[str], re.Pattern[str] | None]]
    may_clear: bool = False

    def of(self, text: str, column: Any = None) -> SpeechRisk:
        """The most urgent risk that the column names; by cues where it says nothing.

        Where the cues see none either, the risk is unknown, or with `may_clear` none.
        """
        if (kind := risk_of_column(column)) is not None:
            return SpeechRisk(kind, "column")
        found = self.kinds_in(text)
        if found:
            return SpeechRisk(found[0], "rules")
        return SpeechRisk(NONE, "rules") if self.may_clear else SpeechRisk(UNKNOWN, "unknown")

    def kinds_in(self, text: str) -> list[str]:
        """The kinds of which a cue stands in the text, the most urgent first."""
        text = text.replace("\u2019", "'")
        ahead = [kind for kind in KINDS if kind in self.patterns and self.patterns[kind][0].search(text)]
        sentences = [match[0] for match in _SENTENCE.finditer(text) if not _FIGURE.search(match[0])] if ahead else []
        return [kind for kind in ahead if any(_holds(self.patterns[kind], sentence) for sentence in sentences)]


def _holds(patterns: tuple[re.Pattern[str], re.Pattern[str] | None], sentence: str) -> bool:
    cue, exception = patterns
    return bool(cue.search(sentence)) and not (exception and exception.search(sentence))


def risk_of_column(value: Any) -> str | None:
    """The kind that a column names: a kind, `none`, a list of kinds, or of mappings with `kind`. None: it says nothing.

    An empty list says that there is none. Anything else is unknown.
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
    """The cues of a file, or the shipped ones.

    Raises:
        UserError: listing what is wrong with the file.
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
                problems.append(f"{kind}[{place}] is no regular expression ({error})")
    if not problems:
        found = [re.compile("|".join(some), re.IGNORECASE) if some else None for some in (cues.cues, cues.exceptions)]
    return (found[0], found[1]) if found and found[0] else (re.compile("(?!)"), None)
