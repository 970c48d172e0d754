"""What a run prints: opening lines, phases of its start, its last lines, and nothing of its libraries."""

import io
import json
import re
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.data.dataset import Dataset
from psychocounsel.engine.telemetry.records import Phases, _next_idea, _unimproved, opening_line, ready_line
from psychocounsel.rundir.run import BEGAN, LAUNCHED, Run, start_times
from tests.support.harness import ROOT, cli, random_groups

# First lines of a run: counts and a warning. Last lines: whether it got worse, and a next command.


def test_counts_of_pairs_and_distinct_prompts() -> None:
    groups = random_groups(60, seed=1)
    doubled = [*groups[44:46], groups[45]]
    data = Dataset(groups[:44], doubled)
    assert opening_line(data, "pairs", 6, 8) == "44 train / 3 held-out pairs (2 prompts), 6 steps of 8"
    assert opening_line(Dataset(groups[:1], []), "prompts", 1, 8) == "1 train / 0 held-out prompts, 1 step of 8"


def test_few_held_out_prompts_and_none_are_warned_of() -> None:
    groups = random_groups(60, seed=1)
    for held_out, wanted, said in ((2, True, "2 held-out prompts: below 30"), (30, True, ""), (29, False, "29 held-out"),
                                   (0, True, "no held-out prompt: nothing is evaluated"), (0, False, "")):  # fmt: skip
        lines = list(Dataset(groups[:10], groups[10 : 10 + held_out]).few_prompts(wanted))
        assert len(lines) == bool(said) and (not said or lines[0].startswith(f"warning: {said}")), held_out


@pytest.mark.parametrize(
    ("algorithm", "clients", "measured", "idea"),
    [
        ("Reward", None, True, "evaluate reward.path=r/model DATA"),
        ("Reward", None, False, "export r"),
        ("DPO", None, True, "evaluate evaluation=health model.path=r/model DATA"),
        ("DPO", None, False, "export r"),
        ("GRPO", "scripted", True, "evaluate evaluation=session model.path=r/model"),
    ],
)
def test_the_next_command_measures_the_model_on_the_same_data(
    algorithm: str, clients: str | None, measured: bool, idea: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my conf").mkdir()
    split = ["data.split_seed=3", "data.bad_rows=drop", "data.principle_weights.safety=2"]
    (tmp_path / "overrides.txt").write_text(
        "\n".join(["algo=x", "+data.path=my pairs.jsonl", "data.half=first", *split, "seed=4\n"])
    )
    given = [str(tmp_path / "my conf"), str(tmp_path), str(tmp_path)]  # as `code_path` holds it
    config = OmegaConf.create({"code_path": given, "rollout": {"clients": clients}, "data": {"name": "local"}})
    data = " ".join(["'--config-dir=my conf'", "'+data.path=my pairs.jsonl'", *split])
    run = Run(tmp_path, config, 0, 1, 1, None)  # type: ignore[arg-type]
    assert _next_idea(algorithm, run, "r", "r/model", measured) == idea.replace("DATA", data)


def test_the_next_command_names_the_cluster_and_the_data_that_an_experiment_chose(tmp_path: Path) -> None:
    (tmp_path / "overrides.txt").write_text(
        "experiment=grpo_8b\ndata.dev_fraction=0.2\ncluster=slurm\ncluster.partition=a100\ncluster.nodes=2\n"
    )
    config = OmegaConf.create({"code_path": [str(tmp_path)], "data": {"name": "psychocounsel"}})
    run = Run(tmp_path, config, 0, 1, 1, None)  # type: ignore[arg-type]
    idea = _next_idea("GRPO", run, "r", "r/model", True)
    where = "cluster=slurm cluster.partition=a100"
    assert idea == f"evaluate evaluation=health model.path=r/model data=psychocounsel data.dev_fraction=0.2 {where}"


@pytest.mark.parametrize(
    ("metric", "before", "best", "worse"),
    [
        ("eval/accuracy", 0.5, 0.25, True),
        ("eval/accuracy", 0.5, 0.5, False),
        ("eval/accuracy", 0.5, 0.75, False),
        ("eval/loss", 0.693, 0.719, True),
        ("eval/loss", 0.693, 0.65, False),
    ],
)
def test_a_run_that_got_worse_says_so(metric: str, before: float, best: float, worse: bool) -> None:
    lines = _unimproved(
        {metric: before}, {metric: best, "step": 3}, OmegaConf.create({"metric": metric, "mode": "auto"})
    )
    assert len(lines) == worse
    if lines:
        assert lines[0].startswith(f"worse than before   {metric} is {best:.3g} at the best step, ")
    assert _unimproved({}, {metric: best}, OmegaConf.create({"metric": metric, "mode": "auto"})) == []


# Rank 0 prints the time until the first step by phase, and the log and `summary.json` have it.


def a_run(tmp_path: Path, rank: int = 0) -> Run:
    return Run(tmp_path, None, rank, 2, 1, io.StringIO())  # type: ignore[arg-type]


def test_the_line_names_phases_and_the_rest() -> None:
    assert ready_line(41.2, {"imports": 9.4, "data": 2.0, "model": 0.2, "micro-batch": 6.0}) == (
        "ready in 41 s: imports 9 s, data 2 s, micro-batch 6 s, other 24 s"
    )
    assert ready_line(0.4, {"imports": 0.3}) == "ready in 0 s"


def test_a_long_phase_is_announced_and_a_short_one_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psychocounsel.engine.telemetry.records._WORTH_A_LINE", 0.05)
    for rank, shown in ((0, "loading: model\n"), (1, "")):
        run = a_run(tmp_path, rank)
        phases = Phases(run)
        with phases("data"):
            pass
        with phases("model"):
            time.sleep(0.3)
        assert phases.seconds["model"] >= 0.3 and capsys.readouterr().err == shown
        assert phases.summary() == {}, "the run was never ready"
        phases.ready()
        phases.ready()
        with phases("evaluation"):
            time.sleep(0.1)
        err = capsys.readouterr().err
        assert err.count("ready in") == (rank == 0) and "evaluation" not in err
        assert "evaluation" not in phases.summary()["startup"]["phases"]


def test_the_first_run_begins_with_its_command_and_later_ones_of_a_sweep_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(BEGAN, "5.0")
    first, second = start_times(), start_times()
    assert first[BEGAN] == "5.0" and float(first[LAUNCHED]) > 5.0
    assert second[BEGAN] == second[LAUNCHED]


@pytest.mark.slow
def test_a_run_tells_where_its_start_went(small_model: Path, tmp_path: Path) -> None:
    two = ["cluster.processes=2", f"run_dir={tmp_path}/run"]
    said = cli("train", "debug=fast", f"model.path={small_model}", *two, cwd=ROOT).stderr
    (line,) = re.findall(r"^ready in \d+ s.*", said, re.MULTILINE)
    assert line in (tmp_path / "run" / "logs" / "01" / "rank-0.log").read_text()
    startup = json.loads((tmp_path / "run" / "summary.json").read_text())["startup"]
    assert line.startswith(f"ready in {startup['seconds']:.0f} s")
    names = {"settings", "imports", "data", "model", "micro-batch", "reference log-probabilities", "evaluation"}
    assert names <= startup["phases"].keys()
    assert 0 < sum(startup["phases"].values()) <= startup["seconds"] + 0.1


# Trainings print their own lines alone: DeepSpeed's reports of memory and its log stay out of the terminal.

_DEEPSPEED = re.compile(
    r"\bMA \d|Max_MA|Virtual Memory|bf16_|initializing|\[(INFO|WARNING|ERROR)\]|deepspeed", re.IGNORECASE
)


_SLOW = [pytest.param(*pair, marks=pytest.mark.slow) for pair in ((0, "bf16"), (2, "fp32"), (3, "bf16"))]
_PROOFS = [
    pytest.param(*pair, marks=pytest.mark.proof) for pair in ((0, "fp32"), (1, "fp32"), (2, "bf16"), (3, "fp32"))
]


@pytest.mark.parametrize(("stage", "dtype"), [(1, "bf16"), *_SLOW, *_PROOFS])
def test_a_training_prints_its_own_lines_alone(stage: int, dtype: str, tmp_path: Path, small_model: Path) -> None:
    run = f"run_dir={tmp_path / 'run'}"
    size = ["max_steps=1", "data.limit=8", "eval.limit=4", "global_batch_size=4", "max_length=512"]
    done = cli("train", run, f"model.path={small_model}", f"zero={stage}", f"model.dtype={dtype}", *size, cwd=ROOT)
    printed = (done.stdout + done.stderr).splitlines()
    assert any("finished at step 1 of 1" in line for line in printed)
    assert not [line for line in printed if _DEEPSPEED.search(line)]
