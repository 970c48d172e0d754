"""Figures of `evaluation=winrate` as figures.json holds them. None: the verdicts do not determine the figure.

The dataclasses of `psychocounsel.metrics` with the same fields explain these.
"""

from typing import NotRequired, TypedDict

from psychocounsel.evaluation.judging.controls import ControlFigures, Share


class MeasureResult(TypedDict):
    """A figure and its 95 % interval over prompts (`intervals.Measure`)."""

    value: float | None
    low: float | None
    high: float | None


class PairResult(TypedDict):
    """Win rate of the model against an opponent, on all prompts or on a slice of them (`win_rates.PairFigures`)."""

    win_rate: MeasureResult
    shares: dict[str, float | None]
    prompts: int
    rows: int
    unjudged: int
    small: bool


class ControlledResult(TypedDict):
    """Win rate if both replies were equal in length or form, and the effects of differences (`regressions.Controlled`)."""

    win_rate: MeasureResult
    effects: dict[str, MeasureResult]
    length_unit: float | None


class SeedResult(TypedDict):
    """Win rates over training seeds (`win_rates.SeedFigures`)."""

    mean: float | None
    sd: float | None
    n: int
    opponent_n: int
    interval: tuple[float | None, float | None]
    over_seeds: bool
    by_seed: dict[str, float]


class AgreementResult(TypedDict):
    """Agreement of two raters (`agreement.Agreement`)."""

    rows: int
    prompts: int
    raw: MeasureResult
    kappa: MeasureResult
    ac1: MeasureResult


class ExpertsResult(TypedDict):
    """Agreement with experts on the pairs of one opponent: of all judges together, and of each judge with such pairs."""

    together: AgreementResult | None
    by_judge: dict[str, AgreementResult]


class OpponentResult(TypedDict):
    """Figures of the model against one opponent; `p_adjusted` is Holm's p-value over the opponents of the variant.

    All win rates count unhealthy replies as lost, except `plain`, which holds the judges' own verdicts.
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


class BiasResult(TypedDict):
    """Position bias of a judge (`agreement.PositionBias`)."""

    rows: int
    inconsistent: MeasureResult
    half_consistent: MeasureResult
    first_place: MeasureResult
    shift: MeasureResult
    error: MeasureResult


class JudgesResult(TypedDict):
    judges: list[str]
    agreement: AgreementResult


class ExpertResult(TypedDict):
    expert: str
    judge: str
    agreement: AgreementResult


class StrengthResult(TypedDict):
    log_odds: MeasureResult
    elo: MeasureResult


class RankingResult(TypedDict):
    """One scale for all contestants (`regressions.Ranking`)."""

    strengths: dict[str, StrengthResult]
    groups: list[list[str]]
    bounded: bool


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
