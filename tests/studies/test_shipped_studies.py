"""The studies in launch/: all stages compose, at full size and with the shipped model; a small quickstart ends in its table."""

import csv
import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.errors import GATE_NO
from psychocounsel.studies.launching import read_arguments
from psychocounsel.studies.plan import StudyPlan, StudyRequest
from psychocounsel.studies.planning import plan_study
from psychocounsel.studies.study_file import read_study, shipped_studies
from psychocounsel.studies.tables import problems
from tests.support.harness import ROOT, SESSION_CACHE, cli

STEP = "max_steps=1 global_batch_size=2 data.limit=8 eval.limit=2"
REPLIES = "rollout=hf rollout.max_tokens=8 algo.prompts_per_round=2"
ASK = "limit=2 replies.max_tokens=8"
# Sizes at which every study runs on the shipped model in a minute or two.
TRIALS = {
    "quickstart": ["steps=2", "batch=4", "pairs=16", "speeches=4", "reply_tokens=16"],
    "paper": [
        *("data='data=sample'", "test=null", "general=builtin:sample", "general_split=train", "rows=8", "seeds=[11]"),
        f"train='model=tiny zero=0 max_length=1024 {STEP}'",
        f"online='{REPLIES}'",
        *(
            "opponent={path: 'builtin:tiny_dpo', name: opponent}",
            "base_3b=builtin:tiny_dpo",
            "base_8b=builtin:tiny",
            "judge='judge=tiny'",
        ),
        f"ask='{ASK}'",
        "measure='limit=8'",
    ],
    "algorithms": ["seeds=[1]", "steps=2", "batch=2", "every=1", "more='data.limit=8'", f"ask='{ASK}'"],
    "ablations": [
        f"offline='algo=dpo {STEP}'",
        f"online='algo=online_dpo {STEP} {REPLIES}'",
        *("rounds=[2,4]", "sizes=[8,16]", "samples=[2,4]", "seeds=[11]"),
        *("base=builtin:tiny", "data='data=sample'", "judge='judge=tiny'", f"ask='{ASK}'"),
    ],
    "robust": ["seeds=[1]", "reward_seeds=[1,2]", "reward_steps=1", "steps=1", "batch=2", "every=1", f"ask='{ASK}'"],
    "pareto": [
        *("seeds=[1]", "weights=[0,4]", "shares=[0,0.3]", "reward_steps=1", "steps=1", "batch=2", "every=1"),
        *("more='data.limit=8 eval.limit=2 rollout=hf rollout.max_tokens=8'", f"ask='{ASK}'"),
    ],
    "sessions": [
        *("seeds=[1]", "rewards=[mean]", "steps=1", "batch=2", "turns=2"),
        *("more='data.limit=4 eval.limit=2 rollout.max_tokens=8'", f"ask='{ASK} evaluation.turns=2'"),
    ],
    "safety": ["steps=2", "batch=4", "pairs=16", "cases=4", "reply_tokens=16"],
    "scaling": [f"run='algo=dpo {STEP}'"],
    "real": [
        "base=builtin:tiny",
        "dtype=fp32",
        *("data=sample", "clients=[builtin:sample]", "take=", "online=", "own_limit=null"),
        f"more='{STEP}'",
        "judges_length=",
        "sft_length=",
        "limit=2",
        "samples=1",
        "reply_tokens=8",
    ],
}


def planned(folder: Path, name: str, *arguments: str) -> StudyPlan:
    command = read_arguments([f"study={name}", f"study_dir={folder / name}", *arguments])
    return plan_study(command.study, command.folder, StudyRequest(overrides=command.common))


def test_every_study_is_tried_here() -> None:
    assert [*shipped_studies()] == sorted(TRIALS)


def slow_study(name: str) -> Any:
    """Mark the test of study `name` as slow. It is skipped if the study needs vLLM, which `make test` does not install."""
    missing = find_spec("vllm") is None and name in ("paper", "ablations")
    skip = pytest.mark.skipif(missing, reason="vLLM is not installed (make vllm)")
    return pytest.param(name, marks=[pytest.mark.slow, skip])


@pytest.mark.parametrize("name", [name if name in ("quickstart", "real") else slow_study(name) for name in TRIALS])
def test_a_study_plans_without_mistakes_and_with_as_many_runs_as_the_page_says(name: str, tmp_path: Path) -> None:
    without_download = ["base=builtin:tiny", "dtype=fp32"] if name == "real" else []  # in place of `make smollm2`
    plan = planned(tmp_path, name, *without_download)
    assert [*problems(plan.study)] == []
    runs = [cell.run_dir for each in plan.stages for cell in each.cells]
    made = {str(each) for each in runs} | {str(each.selection.run_dir) for each in plan.stages if each.selection}
    assert len(set(runs)) == len(runs)
    assert {path for each in plan.stages for cell in each.cells for path in cell.job.after} <= made
    assert f"\n| `{name}` | {len(runs)} |" in (ROOT / "docs" / "studies.md").read_text()


def test_the_study_of_the_page_about_writing_one_plans_without_mistakes(tmp_path: Path) -> None:
    page = (ROOT / "launch" / "README.md").read_text()
    (tmp_path / "mine.yaml").write_text(page.split("```yaml\n")[1].partition("```")[0])
    command = read_arguments([f"study={tmp_path / 'mine.yaml'}", f"study_dir={tmp_path / 'mine'}"])
    plan = plan_study(command.study, command.folder, StudyRequest(overrides=command.common))
    assert [*problems(plan.study)] == [] and len(plan.stages) == 4


def test_what_the_test_split_judges_has_the_same_new_seeds_in_every_row() -> None:
    for name, trained in {"paper": "dpo_3b", "ablations": "chosen"}.items():
        stages = read_study(shipped_studies()[name]).stages
        seeds = {
            stage: [text for text in stages[stage].overrides if "seed=" in text] for stage in stages["winrate"].for_each
        }
        assert {*map(tuple, seeds.values())} == {("seed=${study.seeds}",)}, seeds
        assert trained in seeds
    left_out = {stage for stage in stages if stage.startswith("no_")}
    assert left_out and left_out < seeds.keys(), "judged by the full score"


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIALS)
def test_the_trial_of_a_study_plans_with_nothing_but_what_ships(name: str, tmp_path: Path) -> None:
    for each in planned(tmp_path, name, *TRIALS[name]).stages:
        for cell in each.cells:
            if "algo" in cell.job.config:
                model = cell.job.config.model.path
                assert model == "builtin:tiny" or model.startswith(str(tmp_path))
                assert (
                    cell.job.config.data.path in ("builtin:sample", "builtin:clients", None) or cell.job.config.data.mix
                )
                assert cell.job.config.max_steps <= 2


def test_the_mixture_of_paper_has_the_data_that_are_typed(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"I cannot sleep {n}", "chosen": "What keeps you awake?", "rejected": "Sleep."} for n in range(40)
    ]
    data = tmp_path / "mine.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [text for text in TRIALS["paper"] if not text.startswith("data=")]
    command = read_arguments(["study=paper", f"study_dir={tmp_path}/s", *given, f"data='data=local data.path={data}'"])
    study = replace(command.study, stages={"mix": command.study.stages["mix"]}, table={})
    ((mix,),) = [each.cells for each in plan_study(study, command.folder, StudyRequest()).stages]
    assert [(each.path, each.rows) for each in mix.job.config.data.mix] == [(str(data), 8), ("builtin:sample", 8)]


def run_trial(name: str, folder: Path) -> Path:
    study = folder / "study"
    given = [f"study={name}", f"study_dir={study}", *TRIALS[name], "tracker=none"]
    code = GATE_NO if name == "safety" else 0  # its gate refuses replies that are all cut
    cli("launch", *given, PSYCHOCOUNSEL_CACHE=f"{SESSION_CACHE}/studies", check_code=code)
    return study


def winrates(study: Path) -> list[dict[str, str]]:
    with (study / "winrates.csv").open() as file:
        return [*csv.DictReader(file)]


@pytest.mark.proof
@pytest.mark.parametrize("name", [name for name in TRIALS if name not in ("quickstart", "real", "scaling")])
def test_a_study_runs_from_its_first_stage_to_its_tables(name: str, tmp_path: Path) -> None:
    if name in ("paper", "ablations"):
        pytest.importorskip("vllm")
    study = run_trial(name, tmp_path)
    assert {f"{table}.csv" for table in read_study(shipped_studies()[name]).table} <= {
        file.name for file in study.iterdir()
    }


@pytest.mark.slow
def test_real_runs_from_its_first_stage_to_its_tables(tmp_path: Path) -> None:
    """Only a study that begins from nothing has stages whose data or models other stages have yet to write."""
    rows = winrates(run_trial("real", tmp_path))
    assert len(rows) == 13 and all(row["win rate"] and row["against the best reply of the data"] for row in rows)


@pytest.mark.proof  # `real` has its stages and more
def test_quickstart_ends_in_its_table(tmp_path: Path) -> None:
    study = run_trial("quickstart", tmp_path)
    rows = winrates(study)
    assert len(rows) == 4
    assert all(0 <= float(row["win rate"]) <= 1 for row in rows)
    assert (study / "training.md").read_text().count("\n| ") == 8, (
        "headings, their rule, two first trainings, four algorithms"
    )
