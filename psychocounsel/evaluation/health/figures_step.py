"""Step `figures` of `evaluation=health`: measures replies.parquet and writes figures.json."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from omegaconf import DictConfig

from psychocounsel.asking.language_model import CUT, EMPTY, REFUSED, TEXT
from psychocounsel.asking.system_prompts import replies_prompt
from psychocounsel.blocks.cells import Titled
from psychocounsel.evaluation.contestants.speeches import clients_of
from psychocounsel.evaluation.health.figures import (
    EXCEEDED,
    UNDECIDED,
    Clients,
    ContestantHealth,
    HealthFigures,
    HealthVariant,
    SeedSpread,
    beyond,
    compare,
    means,
)
from psychocounsel.evaluation.health.reply import FIGURES, Health, health_of
from psychocounsel.evaluation.health.show import health_blocks, health_conclusions, limit_warnings
from psychocounsel.evaluation.showing import end_figures
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.steps.tables import rows_of

# Summary of replies.parquet for figures.json: figures of each setting, and comparison of one setting with the others.

Row = Mapping[str, Any]
READ = ("speech", "setting", "seed", "length_limit", "text", "outcome", "completion_tokens")
_MEASURED = (TEXT, CUT, REFUSED, EMPTY)  # replies with other outcomes are only counted, because they have no text


def summarise(
    rows: Iterable[Row],
    speeches: Iterable[Row],
    model: str | None = None,
    system_prompts: Mapping[int | None, str] = MappingProxyType({}),
    clients: Clients = MappingProxyType({}),
) -> list[HealthVariant]:
    """Return the figures of all replies, with one variant for each length limit.

    Args:
        rows: rows of replies.parquet with the columns READ.
        speeches: rows of speeches.parquet: speech, text, language.
        model: the setting that is compared with the others; None: no comparison.
        system_prompts: the system prompt of each length limit, as `system_prompts_of` returns them.
        clients: the client of each speech.
    """
    variants: dict[int | None, dict[str, list[tuple[Row, Health | None]]]] = defaultdict(lambda: defaultdict(list))
    for row, measured in measured_replies(rows, speeches, system_prompts):
        variants[row["length_limit"]][row["setting"]].append((row, measured))
    limits = sorted(variants, key=lambda limit: (limit is not None, limit or 0))
    return [_variant(limit, variants[limit], model, clients) for limit in limits]


def system_prompts_of(config: DictConfig) -> dict[int | None, str]:
    """Return the system prompt of the contestants by length limit; {} if they get none."""
    prompts = {limit: replies_prompt(config, limit) for limit in config.replies.length_limits}
    return {limit: prompt for limit, prompt in prompts.items() if prompt}


def measured_replies(
    rows: Iterable[Row], speeches: Iterable[Row], system_prompts: Mapping[int | None, str]
) -> Iterator[tuple[Row, Health | None]]:
    """Yield each row of replies.parquet with its figures; None if its outcome means that no reply exists.

    Arguments: see `summarise`.
    """
    clients = {row["speech"]: row for row in speeches}
    rows = list(rows)
    # Replies from a file have neither token counts nor the outcome CUT, so whether they were cut is unknown.
    telling = {row["setting"] for row in rows if row["completion_tokens"] is not None or row["outcome"] == CUT}
    for row in rows:
        if row["outcome"] not in _MEASURED:
            yield row, None
            continue
        client = clients[row["speech"]]
        yield (
            row,
            health_of(
                row["text"] or "",
                client["text"],
                cut=row["outcome"] == CUT if row["setting"] in telling else None,
                refused=row["outcome"] == REFUSED,
                language=client.get("language"),
                system_prompt=system_prompts.get(row["length_limit"]),
            ),
        )


def _variant(
    limit: int | None,
    settings: Mapping[str, list[tuple[Row, Health | None]]],
    model: str | None,
    clients: Clients,
) -> HealthVariant:
    by_speech = {name: _grouped(measured, "speech") for name, measured in settings.items()}
    others = [name for name in settings if name != model] if model in settings else []
    return {
        "length_limit": limit,
        "settings": {name: _setting(measured, by_speech[name], clients) for name, measured in settings.items()},
        "against": {other: compare(by_speech[str(model)], by_speech[other], clients=clients) for other in others},
    }


def _setting(
    measured: list[tuple[Row, Health | None]],
    by_speech: Mapping[Hashable, list[Health]],
    clients: Clients,
) -> ContestantHealth:
    figures = means(by_speech, clients=clients)
    seeds = _grouped(measured, "seed")
    return {
        "replies": sum(map(len, by_speech.values())),
        "prompts": len(by_speech),
        "outcomes": dict(sorted(Counter(row["outcome"] for row, _ in measured).items())),
        "figures": figures,
        "limits": beyond(figures),
        "seeds": _over_seeds(list(seeds.values())) if len(seeds) > 1 else {},
    }


def _grouped(measured: Iterable[tuple[Row, Health | None]], column: str) -> dict[Hashable, list[Health]]:
    groups: dict[Hashable, list[Health]] = defaultdict(list)
    for row, health in measured:
        if health is not None:
            groups[row[column]].append(health)
    return dict(groups)


def _over_seeds(seeds: list[list[Health]]) -> dict[str, SeedSpread]:
    """Return the spread of each figure over the seeds that have it, if these are at least two."""
    spreads: dict[str, SeedSpread] = {}
    for name in FIGURES:
        known = [[value for health in healths if (value := health[name]) is not None] for healths in seeds]
        averages = [float(np.mean(values)) for values in known if values]
        if len(averages) > 1:
            spreads[name] = {
                "n": len(averages),
                "mean": float(np.mean(averages)),
                "sd": float(np.std(averages, ddof=1)),
            }
    return spreads


# The step.


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Measure the replies, write figures.json and print the table; return the metrics of the evaluated setting."""
    files = context.files
    setting = build(context.config, "contestants").settings[0]
    speeches = [*rows_of(files.speeches, ["speech", "messages", "text", "language"])]
    prompts = system_prompts_of(context.config)
    variants = summarise(rows_of(files.replies, READ), speeches, setting, prompts, clients_of(speeches))
    warnings = [f"warning: {text}" for text in limit_warnings(variants)]
    figures: HealthFigures = {"evaluation": "health", "model": setting, "variants": variants, "warnings": warnings}
    evaluated = variants[0]["settings"][setting]
    averages = {name: figure["mean"] for name, figure in evaluated["figures"].items() if figure["mean"] is not None}
    verdicts = [check["verdict"] for check in evaluated["limits"]]
    metrics = {"limits_exceeded": verdicts.count(EXCEEDED), "limits_undecided": verdicts.count(UNDECIDED), **averages}
    blocks = health_blocks([Titled("", figures)])
    return end_figures(context, figures, health_conclusions(figures), blocks, metrics)
