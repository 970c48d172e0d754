"""Maker of reports: reads all folders, builds the sections and writes the whole report folder at once.

made = make_report([Path("runs/mine")], Options())
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from psychocounsel.blocks.kinds import Report, Section, SpeechBrowser
from psychocounsel.errors import UserError, hide_words
from psychocounsel.reporting import page
from psychocounsel.reporting.exports import write_cells, write_figures, write_tables
from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.reporting.reading.folders import read_material
from psychocounsel.reporting.reading.runs import RUNNING
from psychocounsel.reporting.reproducibility import write_reproducibility
from psychocounsel.reporting.sections import OPEN, SECTIONS
from psychocounsel.rundir.paths import ReportDir, RunDir
from psychocounsel.rundir.results import OF_GATES
from psychocounsel.rundir.sweep import telling_name
from psychocounsel.storage.files import expanded, recover_directory, replace_directory, temporary_name, with_noun
from psychocounsel.storage.modes import mask_of, restricted

_NAMED = 3  # folders or runs named in one line


@dataclass(frozen=True)
class Options:
    """Options of a report.

    Attributes:
        out: the folder to write; None: `report` in the folder given, or in the current folder if several are given.
        shows_texts: show speeches and replies.
    """

    out: Path | None = None
    shows_texts: bool = True


@dataclass(frozen=True)
class MadeReport:
    """A written report: its files, its content, the material it was made from, and notes for the user."""

    files: ReportDir
    report: Report
    material: Material
    notes: Sequence[str] = ()

    def listed(self) -> list[str]:
        """Return a line per file; a folder of tables or figures gets one line with the number of its files."""
        lines = [str(path) for path in (self.files.page, self.files.cells, self.files.reproducibility)]
        for folder, ending, use in ((self.files.tables, "tex", "paper"), (self.files.figures, "pdf", "talk")):
            count = len([*folder.glob(f"*.{ending}")])
            first = f"; for a {use}: answer.{ending}" if (folder / f"answer.{ending}").exists() else ""
            lines += [f"{folder / f'*.{ending}'} ({count}{first})"] if count else []
        return lines


def make_report(folders: Sequence[Path], options: Options) -> MadeReport:
    """Read the folders and write the report. An earlier report in its place is replaced as a whole.

    Raises:
        UserError: if the folders hold no runs, or if `out` holds files other than a report.
    """
    out = report_folder(folders, options)
    _refuse_other(out)
    material, report = build_report(folders, options)
    out.parent.mkdir(parents=True, exist_ok=True)
    sources = [RunDir(run.path).config for run in material.runs]
    draft = temporary_name(out)
    try:
        with restricted(mask_of(sources, out.parent)):
            draft.mkdir()
            notes = _write(ReportDir(draft), report, material)
        replace_directory(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return MadeReport(ReportDir(out), report, material, notes)


def build_report(folders: Sequence[Path], options: Options) -> tuple[Material, Report]:
    """Return the folders' material and the report built from it, without writing any file.

    If the data of a run are confidential, this process hides messages of libraries from then on.

    Raises:
        UserError: if the folders hold no runs.
    """
    material = read_material(folders, options.shows_texts)
    confidential = any(run.confidential for run in material.runs)
    if confidential:
        hide_words(True)
    sections = [
        replace(_without_texts(section, material), folded=section.name not in OPEN)
        for build in SECTIONS
        if (section := build(material)).blocks
    ]
    names = [telling_name(folder.resolve()) for folder in folders]
    title = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    is_live = any(run.status == RUNNING for run in material.runs)
    return material, Report(title, [*map(str, folders)], sections, is_live, confidential)


def report_folder(folders: Sequence[Path], options: Options) -> Path:
    """Return the folder that the report is written to."""
    if options.out is not None:
        return expanded(options.out).resolve()
    return ((folders[0] if len(folders) == 1 else Path()) / "report").resolve()


def unfinished(material: Material) -> str:
    """Return one line on unfinished runs, problems and gates: `1 of 8 runs have not finished: 1 failed (seed=2)`."""
    others = [run for run in material.runs if not run.is_finished and run.status not in OF_GATES]
    verdicts = Counter(run.status for run in material.runs if run.status in OF_GATES)
    counts = Counter(run.status for run in others)
    states = [f"{count} {status} ({_names(others, status)})" for status, count in counts.items()]
    verb = "has" if len(material.runs) == 1 else "have"
    parts = [f"{len(others)} of {len(material.runs)} runs {verb} not finished: {', '.join(states)}"] if states else []
    problems = len(material.problems) + sum(len(study.problems) for study in material.studies)
    problems += sum(len(run.problems) for run in material.runs)
    if problems:
        parts.append(f"{with_noun(problems, 'problem')} (listed in the report)")
    if not parts:
        parts.append("the run has ended" if len(material.runs) == 1 else f"all {len(material.runs)} runs have ended")
    return "; ".join([*parts, *(f"gates: {count} {verdict}" for verdict, count in verdicts.items())])


def _names(runs: Sequence[RunMaterial], status: str) -> str:
    names = [run.title for run in runs if run.status == status]
    return "; ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _refuse_other(out: Path) -> None:
    """Refuse a folder that holds anything but a report, because all files in it are replaced."""
    recover_directory(out)
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: this is a file; give a new folder: --out FOLDER")
    if not out.exists() or not any(out.iterdir()):
        return
    if not ReportDir(out).is_report:
        raise UserError(f"{out}: this folder holds other files; give a new folder: --out FOLDER")
    if foreign := ReportDir(out).foreign():
        raise UserError(f"{foreign[0]}: not part of the report that would be replaced; move it, or give --out FOLDER")


def _write(files: ReportDir, report: Report, material: Material) -> list[str]:
    """Write all files. Return lines for the user."""
    page.write(report, files.page)
    write_cells(report, files.cells)
    write_tables(report, files)
    write_reproducibility(report, material, files.reproducibility)
    return write_figures(report, files)


def _without_texts(section: Section, material: Material) -> Section:
    """Return the section, without its speech browsers if texts must not be shown."""
    if material.shows_texts:
        return section
    return replace(section, blocks=[block for block in section.blocks if not isinstance(block, SpeechBrowser)])
