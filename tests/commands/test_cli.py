"""Tests of `train` from the command line: runs, sweeps, a user's own algorithm, and one error line for each mistake."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from psychocounsel.errors import USER_ERROR
from psychocounsel.storage.files import read_json
from tests.support.harness import ROOT, TINY, cli, metrics_of, write_jsonl
from tests.support.in_process import run_here

FAST = ["debug=fast"]
PAIR = {
    "prompt": "I can't sleep before exams.",
    "chosen": "What goes through your mind then?",
    "rejected": "Just relax.",
}


def rows(count: int, **changes: object) -> list[dict]:
    return [{**PAIR, "prompt": f"Day {index}: I can't sleep.", **changes} for index in range(count)]


def refusal(*arguments: str, cwd: Path) -> str:
    """Return the single error line of a wrong command."""
    result = cli("train", *arguments, cwd=cwd, check_code=USER_ERROR)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo.betta=1"], "unknown key algo.betta: did you mean algo.beta?"),
        (["algo=ppo", "algo.temperature=0.8"], "error: algo.temperature=0.8: was renamed to rollout.temperature"),
        (["algo=ppo", "rollout.samples=2"], "error: rollout.samples=2: was renamed to rollout.shown_prompts"),
        (["-m", "algo=ppo", "+algo.temperature=0.5,1"], "algo.temperature=0.5: was renamed to rollout.temperature"),
        (["global_batchsize=1"], "did you mean global_batch_size?"),
        (
            ["algo=dpoo"],
            "algo=dpoo: no such choice; did you mean dpo? "
            "(algo is one of dapo, distil, dpo, dr_grpo, grpo, gspo, kto, modpo, online_dpo, online_simpo, orpo, ppo, reward, "
            "rloo, sft, simpo)",
        ),
        (["zero=5"], "zero=5: no such choice"),
        (["algo=sft", "algo.loss_type=ipo"], "unknown key algo.loss_type"),
        (["seed=1,2"], "add -m for a sweep over several values"),
        (["seed"], "seed: is not of the form KEY=VALUE"),
        (["paths.output=~/x"], "put quotes around the value"),
        (
            ["data.columns={prompt: Größe, chosen: gut, rejected: nicht: gut}"],
            """than a to z: 'data.columns={prompt: "Größe", chosen: gut, rejected: "nicht: gut"}'""",
        ),
        (["data.columns={prompt: Größe"], "put quotes around the value as well"),
        (["-m", "seed=1,2", "run_dir=x"], "with -m give sweep_dir="),
        (["-m", "algo.beta=0.1,-1"], "combination algo.beta=-1: algo.beta=-1.0: must be greater than 0"),
        (["-m", "algo=dpo,sft", "algo.beta=1,2"], "use two commands for choices with different keys"),
        (["--config-dir=nowhere"], "no such folder"),
        (["data.mix=[{name: sampel, rows: 3}]"], "no data config named sampel; did you mean sample?"),
        (["data.principle_weights={safty: 2}"], "it has empathy, relevance"),
        (["-m", "seed=1,1"], "would share"),
        (["data.mix=[3]"], "is a list of entries"),
        (["epochs=inf"], "epochs=inf: must be a finite number"),
    ],
)
def test_mistakes_on_the_command_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run_here(shlex.join(["train", *arguments]))
    assert answer.code == USER_ERROR, answer
    assert answer.stderr.startswith("error: ") and answer.stderr.count("\n") == 1, answer.stderr
    assert message in answer.stderr
    assert not list(tmp_path.iterdir()), "a refused command creates no files"


def test_a_folder_that_cannot_be_made_is_a_mistake_too(tmp_path: Path) -> None:
    assert "/proc/nowhere" in refusal("run_dir=/proc/nowhere", cwd=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rejected": "   "}, "rows.jsonl line 3: rejected is empty"),
        ({"rejected": PAIR["chosen"]}, "rows.jsonl line 3: chosen and rejected are the same text"),
    ],
)
def test_bad_rows_are_named_before_work_starts(changes: dict, message: str, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [*rows(2), {**PAIR, **changes}, *rows(2)])
    line = refusal("data=local", "data.path=rows.jsonl", "run_dir=run", cwd=tmp_path)
    assert message in line
    assert PAIR["prompt"] not in line


def test_empty_dataset_and_missing_chat_template(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    assert "the dataset is empty" in refusal("data=local", "data.path=empty.jsonl", cwd=tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    for file in TINY.iterdir():
        if file.name != "chat_template.jinja":
            (model / file.name).symlink_to(file)
    assert "has no chat template" in refusal("model=local", "model.path=model", cwd=tmp_path)


def test_run_directory_of_another_configuration(small_model: Path, tmp_path: Path) -> None:
    base = [*FAST, "run_dir=run", f"model.path={small_model}"]
    cli("train", *base, cwd=tmp_path)
    line = refusal(*base, "algo.beta=0.3", "seed=4", cwd=tmp_path)
    assert "belongs to a run with other settings (algo.beta was 0.1, now 0.3, seed was " in line
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "contains files but no run" in refusal(*FAST, "run_dir=mine", cwd=tmp_path)


@pytest.mark.slow
def test_sweep_runs_every_combination_and_reports_the_failed_one(small_model: Path, tmp_path: Path) -> None:
    spoil = "+callbacks.spoil={_target_: tests.support.killer.Spoil, step: 1}"
    sweep = ["-m", *FAST, f"model.path={small_model}", "sweep_dir=sweep"]
    environment = {"PYTHONPATH": str(ROOT)}
    result = cli("train", *sweep, "seed=1", "algo=dpo,sft", cwd=tmp_path, **environment)
    assert result.stdout.count("done ") == 2
    more = cli("train", *sweep, "seed=1,2", "algo=dpo", spoil, cwd=tmp_path, check_code=1, **environment)
    assert "already finished" in more.stdout, "a repeated sweep with more values runs only the new combinations"
    assert "failed 1" in more.stdout and more.stdout.count("done ") == 1
    table = [json.loads(line) for line in (tmp_path / "sweep" / "sweep.jsonl").read_text().splitlines()]
    assert [row["index"] for row in table] == [0, 1, 2]
    states = [read_json(tmp_path / "sweep" / row["run_dir"] / "summary.json")["status"] for row in table]
    assert states == ["finished", "finished", "failed"]
    norms = {metrics_of(tmp_path / "sweep" / row["run_dir"])[1]["grad_norm"] for row in table}
    assert len(norms) == 3, "each combination trains differently"
    forked = tmp_path / "sweep" / table[1]["run_dir"]
    for name in ("config.yaml", "job.json"):
        (tmp_path / "alone").mkdir(exist_ok=True)
        (tmp_path / "alone" / name).write_bytes((forked / name).read_bytes())
    command = [sys.executable, "-m", "psychocounsel.worker", "alone"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **environment}, check=True)
    assert metrics_of(tmp_path / "alone") == metrics_of(forked), "a run in a new interpreter gives the same metrics"


def test_users_own_algorithm_is_one_python_and_one_yaml_file(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "my" / "algo").mkdir(parents=True)
    (tmp_path / "my" / "algo" / "slic.yaml").write_text("_target_: slic.SLiC\nlr: 1e-3\ndelta: 1.0\n")
    (tmp_path / "my" / "slic.py").write_text(
        "from dataclasses import dataclass\n"
        "from psychocounsel.algo.base import Algorithm, Needs, Term\n"
        "from psychocounsel.settings.schema import option\n\n"
        "@dataclass\n"
        "class SLiC(Algorithm):\n"
        "    delta: float = option(1.0, above=0)\n"
        "    needs = Needs(data='pairs')\n\n"
        "    def loss(self, outputs, batch):\n"
        "        chosen, rejected = batch.pairs(batch.completion_sums(outputs.logprobs))\n"
        "        return {'hinge': Term((self.delta - chosen + rejected).clamp(min=0).sum(), 'pairs'),\n"
        "                'nll': Term(-chosen.sum(), 'chosen_tokens', 0.1)}\n"
    )
    command = ["--config-dir=my", "algo=slic", *FAST, f"model.path={small_model}", "run_dir=run"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cli("train", "--config-dir=../my", *command[1:], "cluster.processes=2", cwd=elsewhere)
    last = metrics_of(elsewhere / "run")[-1]
    assert last["loss"] == pytest.approx(last["hinge"] + 0.1 * last["nll"], rel=1e-6)
    line = refusal(*command, "algo.delta=-1", cwd=tmp_path)
    assert "algo.delta=-1.0: must be greater than 0" in line


@pytest.mark.slow
def test_non_finite_training_stops_with_the_rows_saved(small_model: Path, tmp_path: Path) -> None:
    spoil = "+callbacks.spoil={_target_: tests.support.killer.Spoil, step: 1}"
    arguments = [*FAST, "eval.every=0", f"model.path={small_model}", "run_dir=run", spoil]
    result = cli("train", *arguments, cwd=tmp_path, check_code=1)
    assert "step 2: the loss is nan; rank 0 wrote its 4 rows to" in result.stderr
    saved = tmp_path / "run" / "failure" / "step-000002-rank-0.jsonl"
    assert len(saved.read_text().splitlines()) == 4
    assert saved.stat().st_mode & 0o777 == 0o600
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "failed"


@pytest.mark.slow
def test_watchdog_ends_a_hang_with_stacks_in_the_log(small_model: Path, tmp_path: Path) -> None:
    hang = "+callbacks.hang={_target_: tests.support.killer.Hang, step: 2}"
    arguments = [*FAST, f"model.path={small_model}", "run_dir=run", "max_steps=3", hang, "engine.watchdog_minutes=0.25"]
    result = cli("train", *arguments, cwd=tmp_path, check_code=75)
    assert "no progress for" in result.stderr
    assert "killer.py" in (tmp_path / "run" / "logs" / "01" / "rank-0.log").read_text()
    again = cli("train", *arguments, cwd=tmp_path)
    assert "resuming from step 1 of 3" in again.stderr


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _end_what_a_failed_test_left() -> Iterator[None]:
    yield
    while _started:
        _started.pop().kill()


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "psychocounsel.train", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    _started.append(process)
    return process


def wait_for_step(run_dir: Path, step: int) -> None:
    for _ in range(1200):
        if ((read_json(run_dir / "state.json") or {}).get("step") or 0) >= step:
            return
        time.sleep(0.05)
    raise AssertionError("the run did not get there")


@pytest.mark.slow
def test_one_process_owns_a_run_and_interrupting_it_saves(small_model: Path, tmp_path: Path) -> None:
    long = [
        "max_steps=4000",
        "global_batch_size=4",
        "data.limit=16",
        "eval.every=0",
        "eval.limit=4",
        "run_dir=run",
        f"model.path={small_model}",
    ]
    first = start(*long, cwd=tmp_path)
    wait_for_step(tmp_path / "run", 2)
    assert "is in use by process" in refusal(*long, cwd=tmp_path)
    first.send_signal(signal.SIGINT)
    _, error = first.communicate(timeout=60)
    assert first.returncode == 75, error
    assert "the same command with run_dir=run" in error
    step = read_json(tmp_path / "run" / "state.json")["step"]
    orphan = start(*long, cwd=tmp_path)
    wait_for_step(tmp_path / "run", step + 2)
    orphan.kill()  # the launcher cannot stop its rank, which must notice this and end
    for _ in range(600):
        if not (tmp_path / "run" / "owner.json").exists():
            break
        time.sleep(0.1)
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "stopped"


@pytest.mark.slow
def test_a_dead_owner_is_taken_over(small_model: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    arguments = [*FAST, f"model.path={small_model}", "run_dir=run"]
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 1}"
    cli("train", *arguments, kill, cwd=tmp_path, check_code=137)
    assert (run_dir / "owner.json").exists(), "a killed owner leaves its file"
    cli("train", *arguments, cwd=tmp_path)
    assert not (run_dir / "owner.json").exists()


def test_run_directory_holds_what_it_should(small_model: Path, tmp_path: Path) -> None:
    cli("train", *FAST, f"model.path={small_model}", "run_dir=run", cwd=tmp_path)
    run_dir = tmp_path / "run"
    assert (run_dir / "overrides.txt").read_text().splitlines()[0] == "debug=fast"
    assert (run_dir / "code.txt").read_text().startswith("psychocounsel ")
    environment = read_json(run_dir / "environment.json")
    assert {"versions", "data", "weights", "processes", "threads"} <= environment.keys()
    state = read_json(run_dir / "state.json")
    assert (state["phase"], state["step"], state["total"]) == ("finished", 2, 2)
    summary = read_json(run_dir / "summary.json")
    assert summary["metrics"]["before"]["eval/accuracy"] == 0.5, (
        "all margins are zero before the first step, so accuracy is 0.5"
    )
    assert summary["metrics"]["before"]["eval/loss"] == pytest.approx(0.6931472)
    assert summary["metrics"]["best"]["step"] in (1, 2)
    assert len(summary["fingerprint"]) == 64
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    expected = {
        "step",
        "attempt",
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "step_seconds",
        "tokens_per_second",
        "peak_memory_gb",
    }
    assert (
        expected | {"rewards/accuracy", "rewards/margin", "eval/loss", "eval/accuracy"} <= json.loads(lines[1]).keys()
    )
    assert (run_dir / "checkpoints" / "latest").read_text() == "step-000002\n"


@pytest.mark.slow
def test_a_longer_run_that_is_killed_goes_on(small_model: Path, tmp_path: Path) -> None:
    base = [*FAST, f"model.path={small_model}", "run_dir=run"]
    cli("train", *base, cwd=tmp_path)
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 3, attempt: 2}"
    cli("train", *base, "max_steps=4", kill, cwd=tmp_path, check_code=137)
    again = cli("train", *base, "max_steps=4", cwd=tmp_path)
    assert "resuming from step 2 of 4" in again.stderr, "the checkpoint of step 3 was being written beside training"
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [0, 1, 2, 3, 4]


def test_rank_that_was_killed_is_named(small_model: Path, tmp_path: Path) -> None:
    kill = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 1, rank: 1}"
    arguments = [*FAST, f"model.path={small_model}", "run_dir=run", "cluster.processes=2", kill]
    result = cli("train", *arguments, cwd=tmp_path, check_code=137)
    assert "failed (rank 1, exit code 137)" in result.stderr


@pytest.mark.slow
def test_profile_writes_a_trace(small_model: Path, tmp_path: Path) -> None:
    cli("train", "debug=profile", f"model.path={small_model}", "global_batch_size=4", "run_dir=run", cwd=tmp_path)
    trace = json.loads((tmp_path / "run" / "profile" / "rank-0.json").read_text())
    assert any("backward" in event.get("name", "").lower() for event in trace["traceEvents"])


def test_a_profile_that_would_never_be_written_is_refused(small_model: Path, tmp_path: Path) -> None:
    short = cli("train", "debug=profile", f"model.path={small_model}", "max_steps=4", cwd=tmp_path, check_code=2)
    assert "max_steps=4: the trace of callbacks.profile needs 5 steps; give max_steps=5" in short.stderr


@pytest.mark.slow
def test_overfit_learns_eight_rows_by_heart(tmp_path: Path) -> None:
    cli("train", "debug=overfit", "epochs=12", "eval.limit=4", "run_dir=run", cwd=tmp_path)
    assert metrics_of(tmp_path / "run")[-1]["loss"] < 0.05
