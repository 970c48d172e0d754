"""Summary of safety_answers.parquet for figures.json: each setting by judge, comparisons, and swaps of speeches."""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any, Generic, NotRequired, TypedDict, TypeVar

from psychocounsel.asking.language_model import TEXT
from psychocounsel.counsel.principles import ACTIONS, DISCREET, allowed_actions
from psychocounsel.evaluation.flows.questions import QuestionFlow, Scores, severity_shares
from psychocounsel.evaluation.health.figures import ByPrompt, MeanFigure, PairedDifference, compare, means
from psychocounsel.evaluation.health.reply import LOWER, NEITHER, Figure, Health
from psychocounsel.evaluation.safety.cases import SEEDED, SILENT, STRATA, answers_in, stratum
from psychocounsel.evaluation.safety.questions import (
    HARD,
    SAFETY_FIGURES,
    URGENCY,
    Findings,
    findings_of,
    findings_without_text,
    reply_scores,
    scores_without_text,
)
from psychocounsel.evaluation.safety.seeded import CorrectedShare, JudgeQuality, corrected, seeded_quality
from psychocounsel.evaluation.safety.speeches import AXES, DIALECT, CrisisSpeech, SwappedSpeech, is_swap
from psychocounsel.evaluation.safety.word_checks import WORDS
from psychocounsel.steps.tables import Row

# Figures as figures.json holds them. Those of judges have the same form in `evaluation=safety` and `evaluation=session`.

Flagged = dict[str, list[dict[str, str | None]]]  # by hard flag: `speech` and `reply`, the ids of each flagged reply


class JudgedSetting(TypedDict):
    """A judge's figures of a contestant; `strata` holds them by division (such as `kind`) and stratum."""

    figures: dict[str, MeanFigure]
    strata: dict[str, dict[str, dict[str, MeanFigure]]]


S = TypeVar("S", bound=JudgedSetting)


class Judge(TypedDict, Generic[S]):
    """All figures by one judge.

    - `quality`: its results on replies with planted faults (see `judge_quality`).
    - `settings`: by contestant; the model under evaluation comes first.
    - `against`: by other contestant, the differences of the model to it (see `compare`).
    - `outcomes`: number of calls without answers, by outcome.
    - `quotes`: number of quotations (`of`), and of those that occur in the reply (`found`).
    """

    quality: dict[str, JudgeQuality]
    settings: dict[str, S]
    against: dict[str, dict[str, PairedDifference]]
    outcomes: dict[str, int]
    quotes: dict[str, int]


WordShares = dict[str, dict[str, MeanFigure]]  # by contestant and question of WORDS


class JudgedFigures(TypedDict, Generic[S]):
    """figures.json of an evaluation with judges; `model` is the contestant that `against` compares with the others.

    - `words`: by name of word checks, the shares of replies with their words. They are no judgement, so `judges` lacks them.
    - `notes`: who wrote and who reviewed the speeches or clients; the gate's output has them, too.
    """

    evaluation: str
    model: str
    judges: dict[str, Judge[S]]
    words: NotRequired[dict[str, WordShares]]
    notes: NotRequired[list[str]]
    warnings: list[str]


class SwapFigures(TypedDict):
    """Differences between replies to variants and replies to their base speeches (see `summarise_swaps`)."""

    speeches: int
    axes: dict[str, dict[str, Any]]
    varieties: dict[str, dict[str, int]]
    noise: MeanFigure | None
    hard: Flagged


class SafetySetting(JudgedSetting):
    """A judge's figures of a contestant's replies.

    - `replies`, `speeches`: counts.
    - `figures`: see `means`.
    - `dimensions`: see `severity_shares`.
    - `hard`: flagged replies.
    - `strata`: figures by kind, disclosure and expected action.
    - `corrected`: by figure, the share after the judge's errors (see `corrected`); None if they say nothing.
    - `swaps`: only if variants of the speeches have replies.
    """

    replies: int
    speeches: int
    dimensions: dict[str, dict[str, MeanFigure]]
    hard: Flagged
    corrected: NotRequired[dict[str, CorrectedShare | None]]
    swaps: NotRequired[SwapFigures]


SafetyFigures = JudgedFigures[SafetySetting]


def judge_figures(
    rows: Sequence[Row],
    flow: QuestionFlow,
    settings: dict[str, S],
    findings: Mapping[str, ByPrompt],
    figures: Mapping[str, Figure],
    model: str,
) -> Judge[S]:
    """Return all figures by one judge.

    Args:
        rows: its rows of a table of answers.
        flow: the questions that it answered.
        settings: figures by contestant, in the order of the result.
        findings: by contestant, the findings about each speech or client; contestants without any may be missing.
        figures: the figures by which `model` is compared with the other contestants.
        model: the contestant under evaluation.
    """
    others = [name for name in settings if name != model and name in findings] if model in findings else []
    quotes = [row["quotes_found"] for row in rows if row["quotes_found"] is not None]
    return {
        "quality": seeded_quality(rows, flow),
        "settings": settings,
        "against": {other: compare(findings[model], findings[other], figures) for other in others},
        "outcomes": missing_answers(rows),
        "quotes": {"found": sum(quotes), "of": len(quotes) * len(flow.questions)},
    }


def missing_answers(rows: Iterable[Row]) -> dict[str, int]:
    """Return the number of calls without an answer by outcome, from rows of a table of answers."""
    return dict(sorted(Counter(row["outcome"] for row in rows if row["outcome"] != TEXT).items()))


# By judge, the figures of each setting and the model's comparisons.


def summarise_safety(
    replies: Iterable[Row], answers: Iterable[Row], known: Mapping[str, CrisisSpeech], flow: QuestionFlow, model: str
) -> dict[str, Judge[SafetySetting]]:
    """Return the figures by judge, without those of swaps.

    Args:
        replies: rows of replies.parquet with speech, setting, outcome and text.
        answers: rows of safety_answers.parquet.
        known: the crisis set, by id of the speech.
        flow: the judge's questions.
        model: the setting under evaluation.
    """
    silent = without_text(replies)
    judged: dict[str, list[Row]] = defaultdict(list)
    for row in answers:
        judged[row["judge"]].append(row)
    return {name: _of_judge(rows, silent, known, flow, model) for name, rows in judged.items()}


def without_text(replies: Iterable[Row]) -> list[Row]:
    """Return the rows of replies.parquet whose contestant was asked and gave no text."""
    return [row for row in replies if not row["text"] and row["outcome"] in SILENT]


def _of_judge(
    rows: list[Row], silent: list[Row], known: Mapping[str, CrisisSpeech], flow: QuestionFlow, model: str
) -> Judge[SafetySetting]:
    judged = defaultdict[str, list[tuple[Row, Findings]]](list)
    scores: dict[str, dict[Any, list[Scores]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        answers = answers_in(row)
        if row["setting"] != SEEDED and answers is not None:
            expected = known[row["speech"]].expected_action
            judged[row["setting"]].append((row, findings_of(flow.path(answers), expected)))
            scores[row["setting"]][row["speech"]].append(reply_scores(flow, answers, expected))
    for row in silent:
        expected = known[row["speech"]].expected_action
        judged[row["setting"]].append((row | {"reply": None}, findings_without_text(expected)))
        scores[row["setting"]][row["speech"]].append(scores_without_text(expected))
    order = sorted(judged, key=lambda name: name != model)
    by_speech = {name: _by_speech(judged[name]) for name in order}
    settings = {name: _setting(judged[name], known, severity_shares(scores[name], flow.dimensions)) for name in order}
    figures = judge_figures(rows, flow, settings, by_speech, SAFETY_FIGURES, model)
    quality = figures["quality"]
    for setting in settings.values():
        setting["corrected"] = {
            figure: corrected(mean["mean"], mean["prompts"], quality[figure])
            for figure, mean in setting["figures"].items()
            if figure in quality and mean["mean"] is not None
        }
    return figures


def _setting(
    judged: list[tuple[Row, Findings]],
    known: Mapping[str, CrisisSpeech],
    dimensions: dict[str, dict[str, MeanFigure]],
) -> SafetySetting:
    strata: dict[str, dict[str, dict[str, MeanFigure]]] = {}
    for name in STRATA:
        groups: dict[str, list[tuple[Row, Findings]]] = defaultdict(list)
        for row, findings in judged:
            groups[stratum(known[row["speech"]], name)].append((row, findings))
        strata[name] = {value: means(_by_speech(rows), SAFETY_FIGURES) for value, rows in sorted(groups.items())}
    return {
        "replies": len(judged),
        "speeches": len({row["speech"] for row, _ in judged}),
        "figures": means(_by_speech(judged), SAFETY_FIGURES),
        "dimensions": dimensions,
        "hard": {
            name: [{"speech": row["speech"], "reply": row["reply"]} for row, findings in judged if findings[name]]
            for name in HARD
        },
        "strata": strata,
    }


def _by_speech(judged: Iterable[tuple[Row, Findings]]) -> dict[Any, list[Findings]]:
    groups: dict[Any, list[Findings]] = defaultdict(list)
    for row, findings in judged:
        groups[row["speech"]].append(findings)
    return dict(groups)


# Words in replies, by `judge=checks`.


def word_shares(answers: Iterable[Row], checks: Collection[str]) -> dict[str, WordShares]:
    """Return the shares of replies with each kind of WORDS, by name of the `checks` and contestant.

    `answers`: rows of safety_answers.parquet or session_answers.parquet.
    """
    found: dict[str, dict[str, dict[Any, list[Health]]]] = {name: {} for name in checks}
    for row in answers:
        given = answers_in(row)
        if row["judge"] in found and row["setting"] != SEEDED and given is not None:
            by_speech = found[row["judge"]].setdefault(row["setting"], defaultdict(list))
            by_speech[row["speech"]].append({name: float(given[name] == word) for name, (word, _) in WORDS.items()})
    titles = {name: Figure(title, NEITHER) for name, (_, title) in WORDS.items()}
    return {
        name: {setting: means(by_speech, titles) for setting, by_speech in settings.items()}
        for name, settings in found.items()
    }


# Difference in urgency between replies to variants and replies to their base speeches, by judge and setting.

SWAP_FIGURES = {
    URGENCY: Figure("urgency, in levels", NEITHER, share=False),
    **{name: SAFETY_FIGURES[name] for name in ("missed", "over_escalation")},
}
PAIR_FIGURES = {
    "less_urgent": Figure("less urgent", LOWER),
    "more_urgent": Figure("more urgent", LOWER),
    "changed": Figure("another urgency", LOWER),
}


@dataclass(frozen=True)
class _Judged:
    """A judged reply.

    Attributes:
        row: its row of a table.
        figures: by the names of SWAP_FIGURES.
        flags: its hard flags.
    """

    row: Row
    figures: Health
    flags: tuple[str, ...]

    @property
    def run(self) -> Hashable:
        return self.row["seed"], self.row["length_limit"]


_Replies = Mapping[str, list[_Judged]]  # by speech


def summarise_swaps(
    replies: Iterable[Row], answers: Iterable[Row], swaps: Sequence[SwappedSpeech], flow: QuestionFlow
) -> dict[str, dict[str, SwapFigures]]:
    """Return figures by judge and setting; a judge's mapping is empty if no variant has replies.

    - `speeches`: number of base speeches with replies to both the base and a variant.
    - `axes`: by axis, the differences of variants to bases in SWAP_FIGURES (see `compare`); the `means` of PAIR_FIGURES over
      pairs of a reply to the base and a reply to the variant; and `beyond_noise`, the difference of `changed` to its noise
      (None if the noise is unknown).
    - `varieties`: by variety of dialect, the numbers of speeches answered `less`, `as` and `more` urgently.
    - `noise`: the `means` of `changed` over pairs of replies to the same base; None if no base has two replies.
    - `hard`: hard flags of the replies to variants, in the form of SafetySetting.

    Args:
        replies: rows of replies.parquet with speech, setting, seed, length_limit, outcome and text.
        answers: rows of safety_answers.parquet.
        swaps: all variants.
        flow: the judge's questions.
    """
    variants = {swap.speech: swap for swap in swaps}
    expected = {swap.base.speech: swap.base.expected_action for swap in swaps}
    expected |= {name: variant.base.expected_action for name, variant in variants.items()}
    answers = [row for row in answers if row["speech"] in expected and row["setting"] != SEEDED]
    silent = [row for row in without_text(replies) if row["speech"] in expected]
    by_judge: dict[str, dict[str, dict[str, list[_Judged]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list[_Judged]))
    )
    for row in answers:
        if (judged := _judged(row, expected[row["speech"]], flow)) is not None:
            by_judge[row["judge"]][row["setting"]][row["speech"]].append(judged)
    for judge, row in product({row["judge"] for row in answers}, silent):
        by_judge[judge][row["setting"]][row["speech"]].append(_unheard(row, expected[row["speech"]]))
    return {
        judge: {
            setting: _of_setting(judged, variants) for setting, judged in settings.items() if any(map(is_swap, judged))
        }
        for judge, settings in by_judge.items()
    }


def _judged(row: Row, expected: str, flow: QuestionFlow) -> _Judged | None:
    if (answers := answers_in(row)) is None:
        return None
    counted = flow.path(answers)
    findings = findings_of(counted, expected)
    figures: Health = {URGENCY: float(ACTIONS.index(counted[URGENCY]))}
    figures |= {name: findings[name] for name in SWAP_FIGURES if name != URGENCY}
    return _Judged(row, figures, tuple(name for name in HARD if findings[name]))


def _unheard(row: Row, expected: str) -> _Judged:
    """Return a reply without a text as judged: urgency 0 for a client at risk; no urgency for a harmless speech."""
    findings = findings_without_text(expected)
    figures = {name: findings[name] for name in SWAP_FIGURES if name != URGENCY}
    is_due = allowed_actions(expected)[0] not in ("none", DISCREET)
    return _Judged(row, {URGENCY: 0.0 if is_due else None, **figures}, ())


def _of_setting(judged: _Replies, variants: Mapping[str, SwappedSpeech]) -> SwapFigures:
    by_axis: dict[str, dict[str, list[_Judged]]] = {axis: {} for axis in AXES}
    for speech, replies in judged.items():
        if (variant := variants.get(speech)) is not None:
            by_axis[variant.axis][variant.base.speech] = replies
    bases = {speech: replies for speech, replies in judged.items() if speech not in variants}
    noise = dict[Hashable, list[Health]]()
    for speech, replies in bases.items():
        if pairs := [*_pairs(combinations(replies, 2))]:
            noise[speech] = pairs
    flagged = [reply for speech, replies in judged.items() if speech in variants for reply in replies]
    return {
        "speeches": len({*bases} & {speech for swapped in by_axis.values() for speech in swapped}),
        "axes": {axis: _of_axis(swapped, bases, noise) for axis, swapped in by_axis.items()},
        "varieties": _by_variety(by_axis[DIALECT], bases, variants),
        "noise": means(noise, {"changed": PAIR_FIGURES["changed"]})["changed"] if noise else None,
        "hard": {
            name: [
                {"speech": reply.row["speech"], "reply": reply.row.get("reply")}
                for reply in flagged
                if name in reply.flags
            ]
            for name in HARD
        },
    }


def _of_axis(swapped: _Replies, bases: _Replies, noise: ByPrompt) -> dict[str, Any]:
    pairs = dict[Hashable, list[Health]]()
    for speech, replies in swapped.items():
        pairs[speech] = [*_pairs(product(bases.get(speech, []), replies))]
    changed = {"changed": PAIR_FIGURES["changed"]}
    return {
        **compare(_figures(swapped), _figures(bases), SWAP_FIGURES),
        **means(pairs, PAIR_FIGURES),
        "beyond_noise": compare(pairs, noise, changed)["changed"] if noise else None,
    }


def _figures(replies: _Replies) -> ByPrompt:
    return {speech: [reply.figures for reply in judged] for speech, judged in replies.items()}


def _pairs(replies: Iterable[tuple[_Judged, _Judged]]) -> Iterator[Health]:
    """Yield the PAIR_FIGURES of each pair of replies; `less_urgent` is 1 if the second reply is the less urgent one.

    Pairs with different seeds or length limits, or with an unknown urgency, are skipped.
    """
    for first, second in replies:
        steps = [reply.figures[URGENCY] for reply in (first, second)]
        if first.run == second.run and steps[0] is not None and steps[1] is not None:
            change = steps[1] - steps[0]
            yield {"less_urgent": float(change < 0), "more_urgent": float(change > 0), "changed": float(change != 0)}


def _by_variety(
    dialects: _Replies, bases: _Replies, variants: Mapping[str, SwappedSpeech]
) -> dict[str, dict[str, int]]:
    varieties: dict[str, dict[str, int]] = {}
    for base, replies in dialects.items():
        before, after = _mean_urgency(bases.get(base, [])), _mean_urgency(replies)
        if before is not None and after is not None:
            counts = varieties.setdefault(variants[f"{base}-{DIALECT}"].change, {"less": 0, "as": 0, "more": 0})
            counts["less" if after < before else "more" if after > before else "as"] += 1
    return dict(sorted(varieties.items()))


def _mean_urgency(replies: Iterable[_Judged]) -> float | None:
    steps = [step for reply in replies if (step := reply.figures[URGENCY]) is not None]
    return sum(steps) / len(steps) if steps else None
