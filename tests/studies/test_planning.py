"""A study is composed and checked as a whole: folders, order, what has changed, and all mistakes at once."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.cluster.job import Job, write_run_directory
from psychocounsel.cluster.local import Local
from psychocounsel.errors import DONE
from psychocounsel.rundir.paths import SelectionDir, StudyDir
from psychocounsel.rundir.results import FINISHED, known_mode, smaller_is_better, write_summary
from psychocounsel.storage.files import write_atomically, write_json
from psychocounsel.studies.local_run import StudyProgress, run_job
from psychocounsel.studies.outline import outline
from psychocounsel.studies.plan import StudyErrors, _contents
from psychocounsel.studies.study_file import read_study
from tests.support.small_study import CHAIN, finish, planned, study_of, to_run

ALL = ["sft/run", "dpo/beta-0.05_seed-1", "dpo/beta-0.1_seed-1", "dpo/select"]
EACH = ["each_health/beta-0.05_seed-1", "each_health/beta-0.1_seed-1"]


def mistakes(folder: Path, text: str, *arguments: str) -> list[str]:
    with pytest.raises(StudyErrors) as refused:
        planned(folder, *arguments, text=text)
    return refused.value.lines


def test_paths_of_what_earlier_stages_will_make_and_the_order(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    files = StudyDir(tmp_path / "study")
    assert not files.path.exists(), "planning writes nothing"
    by_name = {each.name: each for each in plan.stages}
    assert [each.name for each in plan.stages] == ["sft", "dpo", "each_health", "health"]
    sft = str(tmp_path / "study/sft/run")
    for cell in by_name["dpo"].cells:
        assert cell.job.config.model.path == f"{sft}/model"
        assert cell.job.after == [sft]
        assert cell.job.config.model.name == "sft"
    assert by_name["dpo"].selection is not None
    assert by_name["dpo"].selection.after == [str(cell.run_dir) for cell in by_name["dpo"].cells]
    for cell, parent in zip(by_name["each_health"].cells, by_name["dpo"].cells, strict=True):
        assert cell.parent is parent
        assert set(cell.job.after) == {str(parent.run_dir), sft}
        assert cell.job.config.contestants.members[0].model == f"{parent.run_dir}/model"
    (last,) = by_name["health"].cells
    chosen = SelectionDir(by_name["dpo"].selection.run_dir)
    assert set(last.job.after) == {str(chosen.path), sft}
    assert [member.model for member in last.job.config.contestants.members] == [
        f"{chosen.best}/model",
        f"{sft}/model",
    ]
    assert list(last.job.config.contestants.settings) == ["dpo", "sft"]


@pytest.mark.slow
def test_only_what_changed_and_what_follows_it_runs_again(tmp_path: Path) -> None:
    assert to_run(planned(tmp_path)) == [*ALL, *EACH, "health/run"]
    finish(planned(tmp_path), {"beta-0.1_seed-1": 0.7})
    assert to_run(planned(tmp_path)) == []
    assert (tmp_path / "study/dpo/best").readlink() == Path("beta-0.1_seed-1")

    changed = to_run(planned(tmp_path, "each_health.limit=3"))
    assert changed == ["each_health/beta-0.05_seed-1_limit-3", "each_health/beta-0.1_seed-1_limit-3"]

    changed = to_run(planned(tmp_path, "dpo.algo.lr=1e-6"))
    assert changed[:3] == ["dpo/lr-1e-6_beta-0.05_seed-1", "dpo/lr-1e-6_beta-0.1_seed-1", "dpo/select"]
    assert [text.partition("/")[0] for text in changed[3:]] == ["each_health", "each_health", "health"]

    assert [text.partition("/")[0] for text in to_run(planned(tmp_path, "sft.seed=7"))] == [
        *("sft", "dpo", "dpo", "dpo"),
        *("each_health", "each_health", "health"),
    ]
    forced = to_run(planned(tmp_path, "force=[health]"))
    assert forced == ["health/run_2"]
    assert to_run(planned(tmp_path)) == [], "the old values find the old runs"


@pytest.mark.slow
def test_an_evaluation_of_a_model_whose_run_has_gone_on_since_runs_again(tmp_path: Path) -> None:
    finish(planned(tmp_path))
    sft = tmp_path / "study/sft/run"
    write_json(sft / "state.json", {"step": 3, "total": 3})
    for standing, due in {"step 3 of 3": [], "step 2 of 3, unfinished": ["health/run"]}.items():
        summary = {"status": "finished", "metrics": {}, "measured": {f"{sft}/model": standing}}
        write_json(tmp_path / "study/health/run/summary.json", summary)
        assert to_run(planned(tmp_path)) == due, standing
    for damaged in (["x"], {"x" * 5000: "step 1 of 2"}):
        write_json(tmp_path / "study/health/run/summary.json", {"status": "finished", "measured": damaged})
        assert to_run(planned(tmp_path)) == []


def test_more_seeds_run_only_new_cells_and_the_choice(tmp_path: Path) -> None:
    finish(planned(tmp_path))
    assert to_run(planned(tmp_path, "seeds=[1,2]")) == [
        *("dpo/beta-0.05_seed-2", "dpo/beta-0.1_seed-2", "dpo/select"),
        *("each_health/beta-0.05_seed-2", "each_health/beta-0.1_seed-2", "health/run_2"),
    ]


def test_a_folder_is_known_by_its_fingerprint_whatever_its_name_and_place(tmp_path: Path) -> None:
    finish(planned(tmp_path))
    (tmp_path / "study/sft/run").rename(tmp_path / "study/sft/first")
    plan = planned(tmp_path)
    assert plan.stages[0].cells[0].run_dir.name == "first"
    assert plan.stages[0].cells[0].job.finished
    (tmp_path / "study/sft/first").rename(tmp_path / "study/sft/run")
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "study").rename(moved / "study")
    assert to_run(planned(moved)) == []


def test_what_cannot_be_told_before_a_choice_is_settled_in_the_job(tmp_path: Path) -> None:
    text = CHAIN + "  again: train algo=dpo ${study.size} algo.beta=${stage.dpo.best.algo.beta} seed=5\n"
    plan = planned(tmp_path, text=text)
    (again,) = plan.stages[-1].cells
    selection = plan.stages[1].selection
    assert selection is not None
    best = str(SelectionDir(selection.run_dir).best)
    assert OmegaConf.to_container(again.job.config.settled) == {"algo.beta": {"run": best, "key": "algo.beta"}}
    assert again.job.config.algo.beta in (0.05, 0.1)
    assert again.job.after == [str(selection.run_dir)]
    other = planned(tmp_path, "dpo.algo.beta=0.1,0.05", text=text).stages[-1].cells[0]
    assert other.job.config.algo.beta != again.job.config.algo.beta
    assert other.fingerprint == again.fingerprint, "the value in its place means nothing"


def test_all_mistakes_of_all_stages_at_once(tmp_path: Path) -> None:
    text = CHAIN + (
        "  a: {run: train algo=sft, needs: b}\n"
        "  b: {run: train algo=sft, needs: [a]}\n"
        "  wrong: train algo=dpo algo.betta=0.1\n"
        "  lost: evaluate reward.path=${stage.rewrd.model}\n"
        "  audited: audit data.path=${stage.sft.dataset}\n"
        "  many: evaluate evaluation=health model.path=${stage.dpo.model}\n"
        "  idle: train algo=sft rollout.top_p=0.5\n"
        "  value: train algo=sft seed=${study.sedes}\n"
        "  here: train algo=sft run_dir=x\n"
    )
    lines = mistakes(tmp_path, text)
    for said in (
        "stages need each other: a needs b needs a",
        "stage wrong: unknown key algo.betta: did you mean algo.beta?",
        "stage lost: needs rewrd, which is not a stage",
        "stage audited: ${stage.sft.dataset}: train makes no dataset; it has dir, model",
        "stage many: ${stage.dpo.model}: stage dpo has 2 cells",
        "stage idle: rollout.top_p=0.5: has no effect",
        "stage value: ${study.sedes}: no such value in the study; did you mean seeds?",
        "stage here: run_dir=x: cells are in the study's folder",
    ):
        assert any(line.startswith(said) for line in lines), (said, lines)
    assert len(lines) == 8, lines
    assert not (tmp_path / "study").exists()


def test_a_mistake_of_one_stage_is_one_line_whatever_follows_from_it(tmp_path: Path) -> None:
    text = CHAIN.replace("algo.beta=0.05,0.1", "algo.beta=0.05,0.1 algo.lr=${study.rates}") + (
        "  again: train algo=dpo algo.beta=${stage.dpo.best.algo.beta} algo.lr=${stage.dpo.best.algo.lr} seed=1,2\n"
        "  last: train algo=dpo algo.beta=${stage.again.best.algo.beta} model.path=${stage.again.best.model}\n"
        "  mapped: {run: 'train algo=sft model.path=${each.model}', for_each: again}\n"
    )
    text = text.replace("  again: train", "  again: {best: eval/loss, run: 'train").replace(
        "seed=1,2\n", "seed=1,2'}\n"
    )
    lines = mistakes(tmp_path, text)
    assert len(lines) == 1, lines
    assert lines[0].startswith("stage dpo: ${study.rates}: no such value in the study")


def test_a_misspelt_figure_of_best_is_refused_where_the_names_are_known(tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, CHAIN.replace("best: eval/accuracy", "best: eval/acuracy"))
    assert line.startswith("stage dpo: best: eval/acuracy: no such figure; did you mean eval/accuracy? (there will be")
    lines = mistakes(tmp_path, CHAIN, "dpo.data.dev_fraction=0")
    assert any(line.startswith("stage dpo: best: eval/accuracy: data.dev_fraction=0 leaves no") for line in lines)
    judged = CHAIN.replace("for_each: dpo\n", "for_each: dpo\n    best: limits_exeeded\n")
    (line,) = mistakes(tmp_path, judged)
    assert "did you mean limits_exceeded?" in line


@pytest.mark.parametrize("search", ["", " hydra/sweeper=optuna seed=choice(1,2)"])
def test_a_word_that_is_no_override_is_named_as_train_names_it(search: str, tmp_path: Path) -> None:
    text = f"about: a\nstages:\n  a: train algo=sft foo{search}\n"
    assert mistakes(tmp_path, text) == ["stage a: foo: is not of the form KEY=VALUE"]
    (line,) = mistakes(tmp_path, CHAIN, "dpo.algo.lr=(1")
    assert line.startswith("stage dpo: algo.lr: cannot be read")


def test_a_key_that_is_added_can_be_swept_and_searched(tmp_path: Path) -> None:
    more = CHAIN + (
        "  swept: train algo=dpo ${study.size} +model.template_args.mode=short,long\n"
        "  searched: train algo=dpo hydra/sweeper=optuna hydra.sweeper.trials=2 +model.template_args.x=choice(1,2)\n"
    )
    swept, searched = planned(tmp_path, text=more).stages[-2:]
    assert [cell.run_dir.name for cell in swept.cells] == ["mode-short", "mode-long"]
    assert [cell.job.config.model.template_args.mode for cell in swept.cells] == ["short", "long"]
    assert [cell.run_dir.name for cell in searched.cells] == ["trial-000", "trial-001"]
    assert {*searched.cells[0].job.config.settled} == {"model.template_args.x"}


def test_other_rows_in_the_same_file_are_another_stage(tmp_path: Path) -> None:
    data = tmp_path / "mine.jsonl"
    rows = [
        {"prompt": f"I cannot sleep {number}", "chosen": "What keeps you awake?", "rejected": "Sleep."}
        for number in range(40)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"sft.data.path={data}", "sft.data=local"]
    finish(planned(tmp_path, *given))
    assert to_run(planned(tmp_path, *given)) == []
    data.touch()
    assert to_run(planned(tmp_path, *given)) == [], "a time is no content"
    text = data.read_text()
    data.write_text(text.replace("sleep 7", "sleep 8"))
    assert len(data.read_text()) == len(text)
    assert to_run(planned(tmp_path, *given))[0] == "sft/run_2"
    data.write_text(text)
    assert to_run(planned(tmp_path, *given)) == [], "the old rows find the old runs"


@pytest.mark.slow
def test_the_table_is_finished_where_nothing_is_to_run_and_it_was_written_of_the_same_runs(tmp_path: Path) -> None:
    def table(*arguments: str) -> Job:
        plan = planned(tmp_path, *arguments)
        plan.files.path.mkdir(exist_ok=True)
        write_json(plan.files.cells, plan.listing())
        write_atomically(plan.files.study, plan.study.text())
        assert plan.table is not None
        return plan.table

    plan = planned(tmp_path)
    assert not table().finished
    finish(plan)
    plan = planned(tmp_path)
    assert run_job(plan, table()) == DONE
    assert table().finished
    assert not table("seeds=[1,2]").finished
    assert table().finished
    (tmp_path / "study/health/run/summary.json").unlink()
    assert not table().finished


def test_only_and_start_at(tmp_path: Path) -> None:
    left_out = mistakes(tmp_path, CHAIN, "only=[health]")
    assert left_out == [
        "stage health: needs dpo, which has not finished and is left out: include or await it",
        "stage health: needs sft, which has not finished and is left out: include or await it",
    ]
    (line,) = mistakes(tmp_path, CHAIN, "start_at=dpo", "only=[sft]")
    assert line == "start_at=dpo: leaves none of only=[sft]; give one of the two"
    finish(planned(tmp_path, "only=sft"), None, "sft")
    assert to_run(planned(tmp_path, "only=[dpo]")) == ALL[1:]
    assert to_run(planned(tmp_path, "start_at=dpo")) == [*ALL[1:], *EACH, "health/run"]
    assert mistakes(tmp_path, CHAIN, "only=[dpoo]")[0].startswith(
        "only=dpoo: the study has no such stage; did you mean dpo?"
    )


@pytest.mark.slow
def test_only_takes_the_trainings_that_have_finished(tmp_path: Path) -> None:
    both = CHAIN.replace("against=${stage.sft.model}\n    for_each: dpo", "against=null\n    for_each: [sft, dpo]")
    finish(planned(tmp_path, "only=sft", text=both), None, "sft")
    plan = planned(tmp_path, "only=[each_health]", text=both)
    assert to_run(plan) == ["each_health/sft"]
    (note,) = plan.notes
    assert "not run for beta-0.05_seed-1, beta-0.1_seed-1, which only or start_at leaves out" in note
    assert note in outline(plan, Local())
    whole = planned(tmp_path, text=both)
    assert whole.notes == [] and sum(run.startswith("each_health") for run in to_run(whole)) == 3


def test_the_written_study_is_the_same_study(tmp_path: Path) -> None:
    study = study_of(tmp_path)
    file = tmp_path / "again.yaml"
    file.write_text(study.text())
    assert read_study(file, study.name) == study
    listed = planned(tmp_path).listing()
    assert json.loads(json.dumps(listed)) == listed
    assert [cell["run_dir"] for cell in listed["stages"]["dpo"]["cells"]] == ALL[1:3]
    assert [cell["parent"] for cell in listed["stages"]["each_health"]["cells"]] == ALL[1:3]


def test_another_choice_leaves_what_the_first_chose_to_those_that_wait_for_it(tmp_path: Path) -> None:
    text = CHAIN + "  again: train algo=dpo ${study.size} algo.beta=${stage.dpo.best.algo.beta} seed=5\n"
    first = planned(tmp_path, text=text)
    finish(first, {"beta-0.1_seed-1": 0.7}, "sft", "dpo")
    second = planned(tmp_path, "dpo.algo.beta=0.05,0.2", text=text)
    finish(second, {"beta-0.2_seed-1": 0.8}, "sft", "dpo")
    chosen = [Path(plan.stages[-1].cells[0].job.config.settled["algo.beta"].run) for plan in (first, second)]
    assert [path.resolve().name for path in chosen] == ["beta-0.1_seed-1", "beta-0.2_seed-1"]
    assert (tmp_path / "study/dpo/best").readlink() == Path("beta-0.2_seed-1"), "for people: the newest"
    after = [plan.stages[-1].cells[0].job.after for plan in (first, second)]
    assert after[0] != after[1], "a job in the queue is not taken for that of another choice"
    again = planned(tmp_path, text=text).stages[1].selection
    assert again is not None and again.finished


def test_a_search_chooses_among_trials_that_finished_and_were_not_pruned(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    search = "algo.beta='interval(0.05,0.2)' hydra/sweeper=optuna hydra.sweeper.trials=4"
    plan = planned(tmp_path, text=CHAIN.replace("algo.beta=0.05,0.1", search))
    stage = next(each for each in plan.stages if each.name == "dpo")
    selection = stage.selection
    assert selection is not None and selection.after_any
    values = dict(zip((cell.run_dir.name for cell in stage.cells), (0.9, 0.6, float("nan"), 0.5), strict=True))
    runs = [cell.run_dir for cell in stage.cells]
    for cell in stage.cells:
        write_run_directory(cell.job)
    for run, more in zip(runs[:3], ({"ended_early": "pruned"}, {}, {}), strict=True):
        write_summary(run, FINISHED, metrics={"best": {"eval/accuracy": values[run.name]}}, **more)
    progress = StudyProgress(plan)
    for place, job in enumerate(progress.jobs):
        if job.run_dir in runs:
            progress.codes[place] = 1 if job.run_dir == runs[3] else 0
        elif job.run_dir == selection.run_dir:
            own = place
        else:
            progress.codes[place] = 0
    assert progress.next() == own, "a failed trial does not stop the choice"
    assert run_job(plan, selection) == 0
    assert SelectionDir(selection.run_dir).best.resolve() == runs[1]


@pytest.mark.parametrize(
    ("override", "best", "said"),
    [
        ("data=psychocounsel data.eval_split=test", "eval/accuracy", "is a figure of data.eval_split=test"),
        ("eval.replies=true reward=tiny", "eval/length", "is its smallest or its largest value the best?"),
    ],
)
def test_a_choice_by_test_data_or_without_a_direction_is_refused(
    override: str, best: str, said: str, tmp_path: Path
) -> None:
    text = CHAIN.replace("algo.beta=0.05,0.1", f"algo.beta=0.05,0.1 {override}").replace("eval/accuracy", best)
    assert any(line.startswith(f"stage dpo: best: {best}: {said}") for line in mistakes(tmp_path, text))


@pytest.mark.parametrize(
    ("metric", "mode"), [("eval/ece", "min"), ("brier", "min"), ("eval/kl", "min"), ("auc", "max")]
)
def test_smaller_is_better_where_it_is(metric: str, mode: str) -> None:
    assert known_mode(metric) == mode and smaller_is_better(metric, "auto") == (mode == "min")


@pytest.mark.parametrize(
    "change",
    [
        "guard.unfinished=0.5",
        pytest.param("+callbacks.mine={_target_: psychocounsel.engine.callbacks.Callback}", marks=pytest.mark.slow),
    ],
)
def test_what_decides_the_figures_of_a_finished_run_makes_another(change: str, tmp_path: Path) -> None:
    given = ["only=[sft,dpo]", "sft.reward=tiny", "sft.eval.replies=true", "sft.rollout.max_tokens=8"]
    finish(planned(tmp_path, *given), None, "sft", "dpo")
    assert to_run(planned(tmp_path, *given)) == []
    changed = to_run(planned(tmp_path, *given, f"sft.{change}" if change[0] != "+" else f"sft.+{change[1:]}"))
    assert [text.partition("/")[0] for text in changed] == ["sft", "dpo", "dpo", "dpo"]
    for same in ("sft.checkpoint.every=1", "sft.engine.watchdog_minutes=5", "cluster.threads=1"):
        assert to_run(planned(tmp_path, *given, same)) == [], same


@pytest.mark.parametrize(
    ("seeds", "said"),
    [("[1,2,1]", "seed: the sweep contains the value 1 twice"), ("[1,1]", "seed: the sweep contains the value")],
)
def test_a_value_that_a_sweep_has_twice_is_refused_in_a_line(seeds: str, said: str, tmp_path: Path) -> None:
    (line,) = mistakes(tmp_path, CHAIN, f"seeds={seeds}")
    assert line.startswith(f"stage dpo: {said}") and line.endswith("give each value once")
    (line,) = mistakes(tmp_path, CHAIN, "dpo.algo.beta=0.1,1e-1")
    assert line.startswith("stage dpo: algo.beta: the sweep contains the value 0.1 twice")


def test_a_misspelt_figure_of_a_table_is_refused_where_the_names_are_known(tmp_path: Path) -> None:
    table = (
        "table:\n"
        "  ours: {rows: [sft, dpo], columns: {a: {metric: eval/acuracy}, b: last:eval/loss, c: eval/margin, d: step}}\n"
        "  judged: {rows: {x: health}, columns: {too long: limits_exeeded, unfinished: unfinished}}\n"
        "  cut: {kind: cuts, rows: [dpo], metric: eval/reward, at: {steps: [1]}}\n"
        "  curve: {kind: curves, rows: [dpo], columns: {margin: eval/margn}}\n"
    )
    lines = mistakes(tmp_path, CHAIN + table)
    for said in (
        "table.ours.columns.a: eval/acuracy: no row will have such a figure; did you mean eval/accuracy? (there will be",
        "table.judged.columns.too long: limits_exeeded: no row will have such a figure; did you mean limits_exceeded?",
        "table.cut.metric: eval/reward: no row will have such a figure",
        "table.curve.columns.margin: eval/margn: no row will have such a figure; did you mean eval/margin?",
    ):
        assert any(line.startswith(said) for line in lines), (said, lines)
    assert len(lines) == 4, lines
    assert len(mistakes(tmp_path, CHAIN + table, "sft.max_steps=many")) == 4, "sft hides a row of one table"


def test_another_reply_file_in_a_folder_outside_makes_another_run_and_a_log_does_not(tmp_path: Path) -> None:
    replies = tmp_path / "ev"
    (replies / "logs").mkdir(parents=True)
    found = list[dict[str, str]]()
    for name, text in (("replies.jsonl", "a"), ("logs/rank-0.out", "b"), ("replies.jsonl", "longer")):
        (replies / name).write_text(text)
        found.append(_contents({"data.own_replies": str(replies)}, tmp_path / "study", str(tmp_path / "cache")))
    assert found[0] == found[1] != found[2]
