"""Study of a few small runs, planned in the test's own process, and a function that marks its runs as finished."""

import re
from pathlib import Path
from typing import Any

from psychocounsel.cluster.job import write_run_directory
from psychocounsel.errors import DONE
from psychocounsel.rundir.results import FINISHED, write_summary
from psychocounsel.studies.launching import read_arguments
from psychocounsel.studies.own_jobs import COMMAND
from psychocounsel.studies.plan import StudyPlan, StudyRequest, write_record
from psychocounsel.studies.planning import plan_study
from psychocounsel.studies.study_file import Study, read_study

SMALL = "max_steps=1 global_batch_size=4 data.limit=8 eval.limit=4"
ASKED = "limit=2 replies.max_tokens=8"
CHAIN = f"""
about: SFT, DPO with two values of beta, and an evaluation of the better one.
values: {{seeds: [1], size: {SMALL}}}
stages:
  sft: train algo=sft ${{study.size}}
  dpo:
    run: train algo=dpo ${{study.size}} model.path=${{stage.sft.model}} algo.beta=0.05,0.1 seed=${{study.seeds}}
    best: eval/accuracy
  each_health:
    run: evaluate evaluation=health {ASKED} model.path=${{each.model}} against=${{stage.sft.model}}
    for_each: dpo
  health: evaluate evaluation=health {ASKED} model.path=${{stage.dpo.best.model}} against=${{stage.sft.model}}
"""


def write_study(folder: Path, text: str = CHAIN) -> Path:
    path = folder / "chain.yaml"
    path.write_text(text)
    return path


def study_of(folder: Path, text: str = CHAIN) -> Study:
    return read_study(write_study(folder, text))


def planned(folder: Path, *arguments: str, text: str = CHAIN) -> StudyPlan:
    """Return the plan of a `launch` command for the study's folder `folder / "study"`."""
    command = read_arguments([f"study={write_study(folder, text)}", f"study_dir={folder / 'study'}", *arguments])
    times = dict.fromkeys(command.force, 1)
    asked = StudyRequest(command.only, command.start_at, command.common, command.force, times, command.config_folders)
    return plan_study(command.study, command.folder, asked)


def finish(plan: StudyPlan, values: dict[str, float] | None = None, *stages: str) -> None:
    """Mark the cells of a plan, or of some stages, as finished. `values` has their metrics by folder name (default 0.5)."""
    from psychocounsel.studies.local_run import run_job

    for each in plan.stages:
        if stages and each.name not in stages:
            continue
        for cell in each.cells:
            write_record(cell.run_dir, cell.stage, cell.fingerprint)
            write_run_directory(cell.job)
            value = (values or {}).get(cell.run_dir.name, 0.5)
            figures: dict[str, Any] = {"eval/accuracy": value, "eval/loss": value}
            write_summary(cell.run_dir, FINISHED, metrics={"best": figures, "last": figures})
        if each.selection is not None and not each.selection.finished:
            assert each.selection.command is COMMAND
            assert run_job(plan, each.selection) == DONE


def to_run(plan: StudyPlan) -> list[str]:
    """Return the jobs that would run, as STAGE/FOLDER. The job that selects a stage's best cell is STAGE/select."""
    return [
        re.sub(r"/select-\w{8}$", "/select", plan.relative(job.run_dir))
        for group in plan.groups()
        for job in group
        if not job.finished and job is not plan.table
    ]
