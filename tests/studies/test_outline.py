"""Output of `dry_run=true` for a study."""

import re
from pathlib import Path

import pytest

from psychocounsel.cluster.local import Local
from psychocounsel.settings.targets import build
from psychocounsel.studies.outline import outline
from psychocounsel.studies.plan import StudyPlan
from tests.support.small_study import CHAIN, planned


def test_what_the_cells_of_a_stage_ask_is_said_once_with_their_number(tmp_path: Path) -> None:
    lines = outline(planned(tmp_path), Local()).splitlines()
    assert any("└─ each_health  (for each cell of dpo; after sft)" in line for line in lines)
    asked = [line for line in lines if line.startswith("each_health")]
    assert asked and all(line.startswith("each_health, each of 2 runs: ") for line in asked), asked
    assert len(set(asked)) == len(asked) and any(re.search(r": its model: \d+ calls", line) for line in asked)
    assert any(line.startswith("health: ") for line in lines), "one run is not counted"


def test_every_job_of_a_study_counts_with_its_segments_and_hours(tmp_path: Path) -> None:
    given = ("cluster=slurm_cpu", "cluster.requeue=false", "cluster.segments=3", "cluster.time=2h")
    plan = planned(tmp_path, *given)
    jobs = [job for group in plan.groups() for job in group]
    runs = [cell for stage in plan.stages for cell in stage.cells]
    others = len(jobs) - len(runs)
    (line,) = (line for line in outline(plan, build(jobs[0].config, "cluster")).splitlines() if " to run on " in line)
    hours = 2 * 3 * len(runs) + others * 20 / 60  # a job that chooses runs or writes tables has 20 minutes
    assert line == (
        f"{len(runs)} jobs to run on cluster=slurm, and {others} to choose runs or write tables; "
        f"{3 * len(runs) + others} jobs in the queue by cluster.segments: at most {hours:,.0f} node-hours of jobs without GPUs"
    )


def test_node_hours_below_ten_have_a_decimal_and_requeues_are_not_counted(tmp_path: Path) -> None:
    (line,) = _demand(planned(tmp_path, "cluster=slurm", "cluster.gpus_per_node=4", "cluster.time=10h"))
    assert re.search(
        r": at most \d+ GPU-hours, and 0\.\d node-hours of jobs without GPUs; requeues not counted$", line
    ), line


def test_runs_that_name_their_models_in_another_order_are_told_together(tmp_path: Path) -> None:
    text = CHAIN.replace("for_each: dpo", "for_each: [dpo, tuned]")
    text = text.replace(
        "  each_health:", "  tuned: train algo=orpo ${study.size} model.path=${stage.sft.model}\n  each_health:"
    )
    asked = [
        line for line in outline(planned(tmp_path, text=text), Local()).splitlines() if line.startswith("each_health")
    ]
    assert asked and all(line.startswith("each_health, each of 3 runs: ") for line in asked), asked


@pytest.mark.slow
def test_jobs_that_share_the_work_of_a_run_count_too(tmp_path: Path) -> None:
    text = CHAIN.replace("health: evaluate ", "health: evaluate shards=3 ")
    given = ("cluster=slurm_cpu", "cluster.requeue=false", "cluster.time=10h")
    (line,) = _demand(planned(tmp_path, *given, text=text))
    (without,) = _demand(planned(tmp_path, *given))
    assert "; 3 jobs share the work of runs with shards" in line and "share" not in without
    hours = [int(re.findall(r"(\d+) node-hours", demand)[0]) for demand in (without, line)]
    assert hours[1] - hours[0] == 3 * 10


def _demand(plan: StudyPlan) -> list[str]:
    cluster = build(plan.stages[0].cells[0].job.config, "cluster")
    return [line for line in outline(plan, cluster).splitlines() if " to run on " in line]
