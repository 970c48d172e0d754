"""A study as text: its graph of jobs for dry_run=true, and a table of its stages at the end."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import fmean

from psychocounsel.cluster.base import Cluster
from psychocounsel.cluster.slurm import sharing
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.states import short
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import SelectionDir
from psychocounsel.rundir.results import gate_verdict, is_finished, objective_interval, read_summary
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.sweep import telling_name
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import read_mapping, with_noun
from psychocounsel.studies.plan import PlannedStage, StudyCell, StudyPlan
from psychocounsel.studies.references import named_stages


def outline(plan: StudyPlan, cluster: Cluster) -> str:
    """Return the output of `dry_run=true`: a line per stage with the stages that it needs, its jobs, and their cost."""
    lines = [f"study {plan.study.name}: {plan.study.about}".rstrip(": "), f"in {plan.files.path}", ""]
    drawn = dict(zip([planned.name for planned in plan.stages], _drawn(plan), strict=True))
    width = max(len(text) for text in drawn.values())
    lines += [f"{drawn[planned.name]:<{width}}  {_jobs(planned)}{_best(planned)}" for planned in plan.stages]
    if plan.table is not None:
        lines.append(f"{'table':<{width}}  after all stages")
    lines += ["", _demand(plan, cluster)]
    return "\n".join([*lines, *plan.notes, *_asking(plan)])


def _drawn(plan: StudyPlan) -> Iterator[str]:
    """Yield each stage, indented by its distance from a first stage, followed by the stages that it needs."""
    depth: dict[str, int] = {}
    for planned in plan.stages:
        needs = named_stages(planned.stage)
        depth[planned.name] = max((depth[need] + 1 for need in needs), default=0)
        arrow = f"{'   ' * (depth[planned.name] - 1)}└─ " if needs else ""
        others = [need for need in needs if need not in planned.stage.for_each]
        notes = [f"for each cell of {', '.join(planned.stage.for_each)}"] if planned.stage.for_each else []
        notes += [f"after {', '.join(others)}"] if others else []
        listed = f"  ({'; '.join(notes)})" if notes else ""
        yield f"{arrow}{planned.name}{listed}"


def _jobs(planned: PlannedStage) -> str:
    """Describe a stage's jobs, for instance `train, 4 jobs: 2 finished, 1 to resume, 1 new`."""
    if not planned.is_requested:
        return f"{planned.stage.command}, left out"
    finished = sum(cell.job.finished for cell in planned.cells)
    begun = sum(not cell.job.finished and is_run(cell.run_dir) for cell in planned.cells)
    counts = {"finished": finished, "to resume": begun, "new": len(planned.cells) - finished - begun}
    shown = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{planned.stage.command}, {with_noun(len(planned.cells), 'job')}: {shown}"


def _best(planned: PlannedStage) -> str:
    if planned.selection is None:
        return ""
    mode = planned.selection.config.study.mode
    return f"; best by {planned.stage.best} ({mode}){' (chosen)' if planned.selection.finished else ''}"


def _demand(plan: StudyPlan, cluster: Cluster) -> str:
    """Return the number of jobs to run, also of those that choose runs, write tables or share a run's work, and their cost.

    The cost is that of their time limits.
    """
    runs = [cell.job for planned in plan.stages for cell in planned.unfinished()]
    every = [job for group in plan.groups() for job in group if not job.finished]
    others = len(every) - len(runs)
    words = f"{with_noun(len(runs), 'job')} to run on cluster={type(cluster).__name__.lower()}"
    words += f", and {others} to choose runs or write tables" if others else ""
    if parts := [
        part for job in every if sharing.is_shared(job) for group in sharing.stages(job)[:-1] for part in group
    ]:
        words += f"; {with_noun(len(parts), 'job')} share the work of runs with shards"
    of_jobs = [configs.build(job.config, "cluster") for job in [*every, *parts]]
    requests = [request for request in of_jobs if isinstance(request, SlurmRequest)]
    segments = sum(request.segments for request in requests)
    words += f"; {with_noun(segments, 'job')} in the queue by cluster.segments" if segments > len(requests) else ""
    gpus = sum(_hours(request) * request.gpus_per_node for request in requests)
    nodes = sum(_hours(request) for request in requests if not request.gpus_per_node)
    costs = [
        f"{_rounded(hours)} {unit}"
        for hours, unit in ((gpus, "GPU-hours"), (nodes, "node-hours of jobs without GPUs"))
        if hours
    ]
    requeues = "; requeues not counted" if any(request.requeue for request in requests) else ""
    return words + (f": at most {', and '.join(costs)}{requeues}" if costs else "")


def _rounded(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 9.95 else f"{hours:.1f}".removesuffix(".0")


def _hours(request: SlurmRequest) -> float:
    """Return the node-hours that a run may take at most by its time limit, over all segments."""
    nodes = (request.nodes + request.server_nodes) / request.runs_side_by_side
    return request.seconds / 3600 * request.segments * nodes


def _asking(plan: StudyPlan) -> list[str]:
    """Return lines about the stages' requests to language models, if these are known before earlier stages have run."""
    lines = list[str]()
    for planned in plan.stages:
        alike: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
        for forecast in map(_forecast, planned.unfinished()):
            alike.setdefault(tuple(sorted(forecast)), []).append(forecast)  # runs may name their models in other orders
        for forecasts in alike.values():
            whose = planned.name if len(forecasts) == 1 else f"{planned.name}, each of {len(forecasts)} runs"
            lines += [f"{whose}: {line}" for line in forecasts[0]]
    return ["", *lines] if lines else []


def _forecast(cell: StudyCell) -> tuple[str, ...]:
    """Return a cell's lines about its requests.

    They do not name the evaluated run, because then equal lines of a stage's cells can be printed once.
    """
    try:
        lines = cell.job.command.forecast(cell.job.config)
    except (UserError, OSError) as error:
        return (f"its requests are not known yet ({error})",)
    if cell.parent is None:
        return tuple(lines)
    own = f"{telling_name(cell.parent.run_dir)}: "
    return tuple("its model: " + line.removeprefix(own) if line.startswith(own) else line for line in lines)


def ending(plan: StudyPlan, failed: Collection[Path]) -> str:
    """Return the final table (each stage's numbers of cells, its metric and gate), and the files with results."""
    rows: list[tuple[str, ...]] = [("stage", "cells", "done", "failed", "left", "metric", "gate")]
    rows += [_row(planned, failed) for planned in plan.stages if planned.is_requested]
    if not any(row[-1] for row in rows[1:]):
        rows = [row[:-1] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "",
        *("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]
    report = f"report: psychocounsel report {short(plan.files.path)}"
    return "\n".join([*lines, *_held_back(plan), *_files(plan), report])


def _row(planned: PlannedStage, failed: Collection[Path]) -> tuple[str, ...]:
    runs = [cell.run_dir for cell in planned.cells]
    verdicts = Counter(verdict for run in runs if (verdict := gate_verdict(run)))
    done = [run for run in runs if is_finished(run) or gate_verdict(run)]
    bad = [run for run in runs if run in failed]
    counts = (len(runs), len(done), len(bad), len(runs) - len(done) - len(bad))
    verdict_counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    return (planned.name, *map(str, counts), _metric(planned, done), verdict_counts)


def _held_back(plan: StudyPlan) -> Iterator[str]:
    """Yield a line for each stage that has not started because a gate that it needs did not pass."""
    gates = {
        str(cell.run_dir): planned.name
        for planned in plan.stages
        for cell in planned.cells
        if gate_verdict(cell.run_dir)
    }
    for planned in plan.stages:
        needed = dict.fromkeys(gates[path] for cell in planned.cells for path in cell.job.after if path in gates)
        if needed and planned.is_requested:
            yield f"{planned.name} has not started, because {' and '.join(needed)} did not pass; the same command checks again"


def _metric(planned: PlannedStage, done: Sequence[Path]) -> str:
    """Return the metric of the best cell; without a selection, the mean over cells."""
    if planned.selection is not None:
        chosen = read_mapping(SelectionDir(planned.selection.run_dir).record).get("chosen")
        if not chosen:
            return ""
        cell = planned.selection.run_dir.parent / chosen["run"]
        interval = objective_interval(cell, str(planned.stage.best))
        return f"{planned.stage.best} {chosen['value']:.4g}{interval} in {chosen['run']}"
    values = [cell.job.objective for cell in planned.cells if cell.run_dir in done]
    known = [value for value in values if value is not None]
    if not known:
        return ""
    mean = " (mean)" if len(known) > 1 else ""
    return f"{planned.cells[0].job.metric} {fmean(known):.4g}{mean}"


def _files(plan: StudyPlan) -> list[str]:
    """Return the paths of the tables."""
    if plan.table is None:
        return []
    written = read_summary(plan.table.run_dir).get("files") or []
    return [f"tables: {', '.join(str(plan.files.path / name) for name in written)}"] if written else []
