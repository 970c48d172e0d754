"""Audit of a data set: takes every measurement, writes `audit.json` and prints what it concludes."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf

from psychocounsel.blocks.cells import Titled
from psychocounsel.blocks.kinds import Paragraph
from psychocounsel.blocks.terminal import terminal_lines
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.system_prompt import COUNSELLOR
from psychocounsel.data.rows import Example, report_dropped
from psychocounsel.data.selection import all_rows, load_split, no_pairs, refuse_sessions
from psychocounsel.data.shared_text import normalised
from psychocounsel.data.sources import StandardSource, load_examples
from psychocounsel.errors import DONE, GATE_NO, GATE_UNDECIDED, UserError
from psychocounsel.evaluation.audit.blind import blind_baselines
from psychocounsel.evaluation.audit.faults import Texts, contradictions, halo, rating_disagreement, repeats, shared
from psychocounsel.evaluation.audit.figures import (
    Accuracy,
    AuditedCounts,
    AuditFigures,
    Disagreement,
    Halo,
)
from psychocounsel.evaluation.audit.pairs import (
    LEAST_COMPONENTS,
    Pairs,
    RatedReplies,
    pair_ratings,
    pairs_from,
    rated_from,
)
from psychocounsel.evaluation.audit.reading import (
    Score,
    other_prompts,
    overlap_margins,
    principle_reading,
    reading_figures,
    reward_margins,
)
from psychocounsel.evaluation.audit.show import audit_blocks
from psychocounsel.evaluation.audit.topics import topics_of
from psychocounsel.evaluation.judging.controls import (
    control_conversations,
    controlled_speeches,
    overlap_figures,
    scored_figures,
    worst_control,
)
from psychocounsel.evaluation.reward.figures import flipped_figures
from psychocounsel.evaluation.showing import tables_line, write_tables
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import FINISHED, write_summary
from psychocounsel.settings.paths import SHIPPED_DATA
from psychocounsel.steps.course import Bar, Say
from psychocounsel.storage.files import write_json

# Gate of an audit: compares the accuracy of all speech-blind baselines with a limit.


@dataclass(frozen=True)
class GateVerdict:
    """Result of the gate.

    Attributes:
        word: "passed", "refused", "undecided", or "none" if no limit is set.
        code: exit code of the command.
        baseline: the baseline that decides the verdict.
    """

    word: str
    code: int
    baseline: str


def judge_blind(baselines: Mapping[str, Mapping[str, Accuracy]], limit: float | None) -> GateVerdict:
    """Compare the `by_prompt` intervals of all baselines with `limit`.

    The gate refuses if one whole interval is above the limit, passes if no interval reaches above it, and is undecided
    otherwise. If it passes or has no limit (None), the verdict names the most accurate baseline.
    """
    accuracies = {name: schemes["by_prompt"] for name, schemes in baselines.items()}
    best = max(accuracies, key=lambda name: accuracies[name]["accuracy"])
    if limit is None:
        return GateVerdict("none", DONE, best)
    surest, widest = (max(accuracies, key=lambda name: accuracies[name][end]) for end in ("low", "high"))
    if accuracies[surest]["low"] > limit:
        return GateVerdict("refused", GATE_NO, surest)
    return (
        GateVerdict("undecided", GATE_UNDECIDED, widest)
        if accuracies[widest]["high"] > limit
        else GateVerdict("passed", DONE, best)
    )


# All measurements of an audit.

Figures = dict[str, Any]


def audit(config: DictConfig, folder: Path, say: Say, bar: Bar, score: Score | None, is_main: bool = True) -> int:
    """Measure the data that `config` names, write `audit.json`, `summary.json` and `tables.txt` to `folder`, and print
    what it concludes; with `verbose` all tables.

    `score` computes rewards, and the scores of heads, float[n, 1 + heads], if `config` names a reward model. All ranks read
    the data and call `score` together; the first rank does the rest alone. Returns the exit code of the gate; on the other
    ranks 0.

    Raises:
        UserError: if a data set cannot be read, if there are no pairs or fewer than `LEAST_COMPONENTS` components, or
            if every pair is too long for the reward model.
    """
    examples, others = load_pairs(config, say), load_others(config, say)
    measured = measure(examples, lambda: all_rows(config.data), others, config, bar, score, is_main)
    if measured is None:
        return DONE
    figures, verdict = measured.figures, measured.verdict
    sections = {key: OmegaConf.to_container(config[key]) for key in ("audit", "data", "reward") if key in config}
    settings = {"part": config.part, "limit": config.limit, **sections}
    figures = {"settings": settings, "fingerprint": measured.pairs.fingerprint(), **figures}
    _write(folder, figures, FINISHED if verdict.code == DONE else verdict.word)
    blocks = audit_blocks([Titled("", figures)])
    tables = write_tables(folder, blocks)
    conclusions = terminal_lines(block for block in blocks if isinstance(block, Paragraph))
    for line in [*(tables if config.verbose else conclusions), *tables_line(config, folder)]:
        say(line)
    say(f"written to {RunDir(folder).audit}")
    return verdict.code


@dataclass(frozen=True)
class Measured:
    """Audited pairs with their figures and the verdict of the gate."""

    pairs: Pairs
    figures: AuditFigures
    verdict: GateVerdict


def measure(
    examples: Sequence[Example],
    rated: Callable[[], Sequence[Example]],
    others: Mapping[str, list[Example]],
    config: DictConfig,
    bar: Bar,
    score: Score | None = None,
    is_main: bool = True,
) -> Measured | None:
    """Return all figures of the pairs in `examples`; None on all ranks but the first. `others`: rows of other sets, by name.

    `rated()` returns the rows whose ratings are measured. Keys read: `audit`, `data.rating_range`.

    Raises:
        UserError: for fewer than `LEAST_COMPONENTS` components, or if every pair is too long for the reward model.
    """
    pairs = pairs_from(examples)
    topics = topics_of(pairs, config.audit.seed)
    if pairs.components < LEAST_COMPONENTS:
        raise UserError(
            f"the pairs form {pairs.components} components that share no text, but an audit needs at least "
            f"{LEAST_COMPONENTS}: add rows of other clients"
        )
    other = other_prompts(pairs, topics.of_pair, config.audit.seed)
    margins = {}
    controlled = controlled_speeches(examples, COUNSELLOR, config.audit.controls)
    controls, heads = {}, {}
    if score is not None:
        scores = reward_margins(pairs, other, score)
        margins["reward"] = {name: values[:, 0] for name, values in scores.items()}
        heads = {name: values[:, 1:] for name, values in scores.items() if values.shape[1] > 1}
        controls["reward"] = scored_figures(controlled, score(control_conversations(controlled))[:, 0].tolist())
    if not is_main:
        return None
    margins["overlap"] = overlap_margins(pairs, other)
    controls["overlap"] = overlap_figures(controlled)
    options, steps = config.audit, lambda names: bar(names, "baselines")
    blind = blind_baselines(pairs, topics, options.folds, options.permutations, options.seed, steps)
    verdict = judge_blind(blind["baselines"], config.audit.max_blind)
    halo_of, disagreement = _of_ratings(rated, config.data.rating_range[1], examples)
    repeated, against = _of_texts(config, pairs, others)
    figures: AuditFigures = {
        "counts": _counts(pairs),
        "topics": {"source": topics.source, "count": len(topics.names)},
        "blind": blind,
        "reading": {name: _of_reading(name, margins, pairs, examples) for name in margins},
        "controls": controls,
        "gate": {"limit": config.audit.max_blind, "baseline": verdict.baseline, "verdict": verdict.word},
        "halo": halo_of,
        "disagreement": disagreement,
        "contradictions": contradictions(pairs),
        "repeats": repeated,
        "against": against,
    }
    if heads:
        figures["principles"] = principle_reading(heads, margins["overlap"], pair_ratings(examples), pairs)
    return Measured(pairs, figures, verdict)


def _of_reading(
    judge: str, margins: Mapping[str, dict[str, np.ndarray]], pairs: Pairs, examples: Sequence[Example]
) -> Figures:
    """Return a judge's accuracy with each speech, on flipped pairs, and beyond word overlap. NaN margins are skipped."""
    own = margins[judge]["own"]
    kept = np.flatnonzero(~np.isnan(own))
    flipped = flipped_figures([examples[row] for row in kept], own[kept])
    overlap = None if judge == "overlap" else margins["overlap"]
    return {**reading_figures(margins[judge], pairs.component, overlap), "flipped": flipped}


def load_pairs(config: DictConfig, say: Say) -> list[Example]:
    """Return the pairs that `config` selects: all of them, or only the held-out split.

    Raises:
        UserError: if there are no pairs, or a row has fewer than two replies.
    """
    train, held_out = load_split(config.data, say)
    examples = ([*train, *held_out] if config.part == "all" else held_out)[: config.limit]
    if not examples or any(len(example.replies) < 2 for example in examples):
        raise no_pairs("audit")
    refuse_sessions(examples, "audit")
    return examples


def load_others(config: DictConfig, say: Say) -> dict[str, list[Example]]:
    """Return the rows of each data set in `audit.against`, by name, and report unusable rows through `say`.

    Raises:
        UserError: if a data set cannot be read, or has no usable row.
    """
    others = {}
    for entry in config.audit.against:
        columns = None if entry.path in SHIPPED_DATA else config.data.columns
        source = StandardSource(columns=columns, html=config.data.html)
        name, dropped = entry.name or entry.path, list[str]()
        rows = load_examples(entry.path, entry.split, entry.revision, source, config.data.rating_range, dropped)
        report_dropped(dropped, len(dropped) + len(rows), f"audit.against={name}", say)
        others[name] = rows
    return others


def _counts(pairs: Pairs) -> AuditedCounts:
    sizes = np.bincount(pairs.component)
    return {
        "pairs": len(pairs),
        "prompts": len(pairs.prompts),
        "replies": len(pairs.replies),
        "components": len(sizes),
        "largest_component": int(sizes.max()),
        "writers": len({name for names in pairs.writers for name in names}) if pairs.writers else None,
    }


def _of_ratings(
    rows: Callable[[], Sequence[Example]], highest: float, examples: Sequence[Example]
) -> tuple[Halo | None, Disagreement | None]:
    """Return halo and rating disagreement over all replies to the audited prompts; both are None without ratings."""
    if not any(example.ratings for example in examples):
        return None, None
    prompts = {normalised(example.prompt) for example in examples}
    rated: RatedReplies = rated_from([row for row in rows() if normalised(row.prompt) in prompts], list(PRINCIPLES))
    return halo(rated.ratings, list(PRINCIPLES), highest), rating_disagreement(rated)


def _of_texts(
    config: DictConfig, pairs: Pairs, others: Mapping[str, list[Example]]
) -> tuple[dict[str, int], dict[str, Mapping[str, Any]]]:
    """Return the duplicates within the pairs, and the overlap with each other data set by name."""
    texts = Texts(pairs)
    against = dict[str, Mapping[str, Any]]()
    for name, rows in others.items():
        against[name] = {**shared(pairs, texts, rows, config.audit.near), "fingerprint": _fingerprint(rows)}
    return repeats(pairs, texts, config.audit.near), against


def _fingerprint(rows: Sequence[Example]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.prompt, row.replies)).encode())
    return digest.hexdigest()


def _write(folder: Path, figures: AuditFigures, status: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(RunDir(folder).audit, figures)
    best = figures["blind"]["baselines"][figures["gate"]["baseline"]]["by_prompt"]
    metrics = {f"blind_{name}": best[name] for name in ("accuracy", "low", "high")}
    for name, reading in figures["reading"].items():
        metrics |= {
            f"{name}_accuracy": reading["own"]["accuracy"],
            f"{name}_reads": reading["gains"]["swapped"]["gain"],
        }
        if beyond := reading.get("beyond_overlap"):
            metrics[f"{name}_reads_beyond_overlap"] = beyond["gain"]["value"]
        metrics |= worst_control(figures.get("controls", {}).get(name, {}), f"{name}_")
    # A run with `after` this audit starts only if the status is FINISHED.
    write_summary(folder, status, metrics=metrics)
