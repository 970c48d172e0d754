"""Figures of `evaluation=winrate` as figures.json holds them. None: the verdicts do not determine the figure."""

from typing import Any, NotRequired, TypedDict

from psychocounsel.evaluation.judging.controls import ControlFigures, Share

# Fields of dataclasses of `psychocounsel.metrics`, which explain them; a `Measure` is {value, low, high}.
PairResult = dict[str, Any]  # win_rates.PairFigures, on all prompts or on a slice of them
SeedResult = dict[str, Any]  # win_rates.SeedFigures
ControlledResult = dict[str, Any]  # regressions.Controlled
RankingResult = dict[str, Any]  # regressions.Ranking, with the names of contestants
AgreementResult = dict[str, Any]  # agreement.Agreement
BiasResult = dict[str, Any]  # agreement.PositionBias


class ReadersResult(TypedDict):
    """The experts' own comparison: see `readers.readers_result`, which computes it. Lists hold the model's side first."""

    readers: list[str]
    result: PairResult
    agreement: AgreementResult | None
    sense: list[dict[str, Share] | None]
    harmful: list[dict[str, int] | None]


class ExpertsResult(TypedDict):
    """Agreement with experts on the pairs of one opponent: of all judges together, and of each judge with such pairs."""

    together: AgreementResult | None
    by_judge: dict[str, AgreementResult]
    readers: NotRequired[ReadersResult | None]


class OpponentResult(TypedDict):
    """Figures of the model against one opponent; `p_adjusted` is Holm's p-value over the opponents of the variant.

    All win rates count unhealthy replies as lost, except `plain` and `principles`, which hold the judges' own verdicts.
    """

    overall: PairResult
    plain: NotRequired[PairResult]
    seeds: SeedResult
    length_controlled: ControlledResult
    length_and_ending_controlled: ControlledResult
    length_and_formatting_controlled: ControlledResult
    all_controlled: ControlledResult
    by_judge: dict[str, PairResult]
    principles: dict[str, PairResult]
    topics: dict[str, PairResult]
    risk: dict[str, PairResult]
    p: float | None
    p_adjusted: float | None
    experts: ExpertsResult


def over_seeds(result: OpponentResult) -> dict[str, Any]:
    """Return the win rate with its interval {value, low, high}: over training seeds and clients if a side has several seeds."""
    seeds = result.get("seeds", {})
    if not seeds.get("over_seeds") or seeds["mean"] is None or None in seeds["interval"]:
        return dict(result["overall"]["win_rate"])
    low, high = seeds["interval"]
    return {"value": seeds["mean"], "low": low, "high": high}


class JudgesResult(TypedDict):
    judges: list[str]
    agreement: AgreementResult


class ExpertResult(TypedDict):
    expert: str
    judge: str
    agreement: AgreementResult


class ReplyCounts(TypedDict):
    """Replies of a contestant: `without_text` by outcome, and `over_limit` (longer than the length limit)."""

    wanted: int
    without_text: dict[str, int]
    over_limit: int


class AnchorResult(TypedDict):
    """Win rate of a contestant against the best, or the median, reply of the data; `plain`: without the health rule."""

    win_rate: Share
    plain: NotRequired[Share]


class ControlsResult(TypedDict):
    """Each judge's preferences for controls, and the largest share that a judge may have."""

    limit: float
    judges: dict[str, ControlFigures]


class WinrateVariant(TypedDict):
    """Figures under one length limit [words]. `opponents` is empty and `contestants` missing if no verdict exists."""

    length_limit: int | None
    opponents: dict[str, OpponentResult]
    contestants: NotRequired[dict[str, ReplyCounts]]
    judges: dict[str, BiasResult]
    agreement: list[JudgesResult]
    experts: list[ExpertResult]
    ranking: RankingResult | None
    anchors: NotRequired[dict[str, dict[str, AnchorResult]]]


class WinrateFigures(TypedDict):
    """figures.json.

    `left_out` counts the speeches skipped as near-duplicates of training data, `verdicts` the calls by judge and outcome, and
    `answered_by` the answers by judge and by the model name that the server gave. `roles` names the roles that judges had in
    the training of contestants, by judge.
    """

    evaluation: str
    model: str
    left_out: int
    roles: NotRequired[dict[str, list[str]]]
    verdicts: dict[str, dict[str, int]]
    answered_by: dict[str, dict[str, int]]
    variants: list[WinrateVariant]
    controls: NotRequired[ControlsResult]
    warnings: list[str]
