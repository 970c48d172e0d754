"""The end of an evaluation's output: its conclusions, and the files that have all tables and some replies."""

from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.blocks.conclusions import Conclusion, recorded, verdict_lines
from psychocounsel.blocks.kinds import Block
from psychocounsel.blocks.terminal import encodable, terminal_lines
from psychocounsel.evaluation.samples import write_samples
from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.files import write_atomically


def show_result(
    config: DictConfig,
    folder: Path,
    say: Callable[[str], None],
    conclusions: Sequence[Conclusion],
    blocks: Sequence[Block],
) -> None:
    """Write the tables of `blocks` to `tables.txt` in `folder`, and print the conclusions, or the tables as well.

    Without conclusions, the tables are printed. Replies of contestants are in `samples.md`.
    """
    tables = write_tables(folder, blocks)
    if config.verbose or not conclusions:
        cautions = {encodable(f"warning: {line}") for conclusion in conclusions for line in conclusion.cautions}
        for line in tables:
            if line not in cautions:  # they stand below the conclusions
                say(line)
    for line in dict.fromkeys(verdict_lines({"verdicts": recorded(conclusions)})):  # verdicts share warnings
        say(encodable(line))
    if missing := dict.fromkeys(need for conclusion in conclusions for need in conclusion.missing):
        say("to be sure:")
        for need in missing:
            say(encodable(f"  {need}"))
    for line in [*write_samples(folder), *(tables_line(config, folder) if conclusions else ())]:
        say(line)


def write_tables(folder: Path, blocks: Sequence[Block]) -> list[str]:
    """Write the lines of all `blocks` to `tables.txt` in `folder`, and return them."""
    lines = [*terminal_lines(blocks)]
    write_atomically(RunDir(folder).tables, "\n".join(lines).strip() + "\n")
    return lines


def tables_line(config: DictConfig, folder: Path) -> list[str]:
    """Return the line that names the file of all tables; [] if they are printed."""
    return [] if config.verbose else [f"all tables: {RunDir(folder).tables} (verbose=true prints them here)"]
