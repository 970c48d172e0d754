"""The part of the data that an evaluation uses: `part=auto` becomes `held_out` or `all`, with the reason. No torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from psychocounsel.reward.sections import reward_sections
from psychocounsel.rundir.run_config import read_section
from psychocounsel.rundir.trained_runs import run_trained_on
from psychocounsel.storage.files import expanded

if TYPE_CHECKING:
    from psychocounsel.data.rows import Example

_OF_SPLIT = (
    *("mix", "eval_path", "eval_split", "dev_fraction", "split_seed", "pairs", "min_gap", "gap", "principle_weights"),
    *("safety_veto", "bad_rows", "columns", "group_by", "where", "html", "split", "subset"),
)


@dataclass(frozen=True)
class EvaluatedPart:
    """Part of the data: `name` is held_out or all; `run` is an evaluated run that trained on the data file, or None."""

    name: str
    run: Path | None

    def line(self, config: DictConfig, used: int, total: int, rows: str) -> str:
        """Return the line that says which part is used. `rows` names what is counted: pairs or speeches."""
        named = f"data={config.data.name}:"
        if self.name == "all":
            if self.run:
                return f"{named} all {total:,} {rows}; warning: {self.run} trained on some of them"
            reason = ", because no evaluated run trained on this file" if own_file(config) else ""
            return f"{named} all {total:,} {rows}{reason}"
        reason = f", because {self.run} trained on this file" if self.run else ""
        sentence = f"{named} {used:,} of {total:,} {rows}, the held-out part{reason}; part=all takes all"
        if other := _other_split(self.run, config):
            return (
                f"{sentence}; warning: that training had another data.{other}, so it may have used some of these {rows}"
            )
        return sentence


def evaluated_part(config: DictConfig) -> EvaluatedPart:
    """Return the part that `part` means for a checked configuration.

    `auto` is `all` for a file of the user's own that no evaluated run trained on. Otherwise it is `held_out`: an
    evaluated run must not be tested on its training rows, and datasets are split for evaluation.
    """
    file = own_file(config)
    runs = (run_trained_on(path, file) for path in _evaluated(config)) if file else ()
    run = next((run for run in runs if run), None)
    if config.part != "auto":
        return EvaluatedPart(str(config.part), run)
    return EvaluatedPart("held_out" if file is None or run else "all", run)


def settle_part(config: DictConfig) -> None:
    """Replace `part=auto` by `held_out`, except for a file: there it depends on runs that may not exist yet."""
    if config.get("part") == "auto" and own_file(config) is None:
        config.part = "held_out"


def own_file(config: DictConfig) -> Path | None:
    """Return the single file that `data` names; None for other data, and if `data.eval_path` or a mixture is set."""
    data = config.data
    if data.mix or data.eval_path or data.eval_split or not data.path:
        return None
    file = expanded(data.path)
    return file if file.is_file() else None


def _other_split(run: Path | None, config: DictConfig) -> str | None:
    """Return a key of `data` that changes the split and differs from that of the run; None if the splits are equal."""
    if run is None:
        return None
    trained, here = read_section(run, "data"), OmegaConf.to_container(config.data)
    return next((key for key in _OF_SPLIT if trained.get(key) != here.get(key)), None)  # type: ignore[union-attr]


def _evaluated(config: DictConfig) -> Iterator[str | None]:
    """Yield the paths of the models that an evaluation measures."""
    if config.get("contestants") is not None:
        yield from (member.get("model") for member in config.contestants.members)
    yield from (section.get("path") for _, section in reward_sections(config))


@dataclass(frozen=True)
class EvaluatedRows:
    """Rows of the part that is evaluated (`used`), and all rows of the data (`whole`), the training rows first."""

    part: EvaluatedPart
    used: list[Example]
    whole: list[Example]


def load_evaluated(config: DictConfig, report: Callable[[str], None]) -> EvaluatedRows:
    """Load `data` and select the part that the checked configuration of an evaluation names.

    Raises:
        UserError: as `load_split` does.
    """
    from psychocounsel.data.selection import load_split  # it imports numpy, which a command needs only here

    train, held_out = load_split(config.data, report)
    part, whole = evaluated_part(config), [*train, *held_out]
    return EvaluatedRows(part, whole if part.name == "all" else held_out, whole)


def idle_in_part(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of `data` that have no effect on the rows that are evaluated, each with the reason."""
    yield "data.too_long", "an evaluation shortens no replies"
    if evaluated_part(config).name == "held_out":
        for name in ("limit", "fraction"):
            yield (
                f"data.{name}",
                "it selects training rows, and the held-out part is evaluated (limit=N takes N of its rows)",
            )
