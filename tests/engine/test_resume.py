"""A run that is killed or stopped, and resumed by the same command, equals the uninterrupted run, bit for bit."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psychocounsel.rundir.manifest import complete_checkpoints, latest_checkpoint
from psychocounsel.storage.files import read_json
from tests.support.harness import ROOT, cli, metrics_of

BASE = [
    "data.limit=40",
    "eval.limit=6",
    "max_steps=6",
    "global_batch_size=4",
    "eval.every=2",
    "checkpoint.every=2",
    "algo.lr=1e-3",
]
SMALL = ("zero=0", "cluster.processes=1")
SHARDED = ("zero=3", "cluster.processes=2")
REWARD = (*SMALL, "algo=reward")
LORA = (*SMALL, "model.lora.rank=4", "model.lora.dropout=0.2")
OTHERS = {
    "reward": REWARD,
    "lora": LORA,
    "reward sharded": (*SHARDED, "algo=reward"),
    "lora sharded": (*SHARDED, "model.lora.rank=4", "model.lora.dropout=0.2"),
    "reward with lora": (*REWARD, "model.lora.rank=4"),
    "kto": (*SMALL, "algo=kto"),
    "two lanes": (*SMALL, "cluster.threads=2"),
}
DEATHS = [("step_end", 3), ("checkpoint_written", 4), ("checkpoint_renamed", 4), ("eval_batch", 4)]
SELDOM = [(0, pytest.mark.proof), (2, pytest.mark.slow), (3, pytest.mark.proof)]


def command(run_dir: Path, model: Path, setting: tuple[str, ...], *more: str) -> list[str]:
    return ["train", f"run_dir={run_dir}", f"model.path={model}", *BASE, *setting, *more]


class Unbroken(dict[tuple[str, ...], Path]):
    """Finished runs by their settings; each is trained when a test first asks for it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model

    def __missing__(self, setting: tuple[str, ...]) -> Path:
        run = self.folder / str(len(self))
        cli(*command(run, self.model, setting), cwd=ROOT)
        self[setting] = run
        return run


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> Unbroken:
    return Unbroken(tmp_path_factory.mktemp("resume"), small_model)


def assert_bitwise_equal(run_dir: Path, unbroken: Path) -> None:
    assert metrics_of(run_dir) == metrics_of(unbroken)
    mine, theirs = (load_file(next((folder / "model").glob("*.safetensors"))) for folder in (run_dir, unbroken))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    last, expected = latest_checkpoint(run_dir), latest_checkpoint(unbroken)
    assert last is not None and expected is not None and last.name == expected.name == "step-000006"
    summary, other = read_json(run_dir / "summary.json"), read_json(unbroken / "summary.json")
    assert summary["status"] == "finished"
    assert summary["metrics"] == other["metrics"]


def kill_and_resume(run_dir: Path, model: Path, setting: tuple[str, ...], event: str, step: int) -> None:
    death = f"+callbacks.kill={{_target_: tests.support.killer.Kill, event: {event}, step: {step}}}"
    killed = cli(*command(run_dir, model, setting, death), cwd=ROOT, check_code=137)
    assert "failed (rank 0, exit code 137)" in killed.stderr
    again = cli(*command(run_dir, model, setting), cwd=ROOT)
    assert f"resuming from step {4 if event == 'checkpoint_renamed' else 2}" in again.stderr


@pytest.mark.parametrize(
    ("event", "step"), [DEATHS[1], *(pytest.param(*DEATHS[each], marks=mark) for each, mark in SELDOM)]
)
def test_kill_and_resume(event: str, step: int, unbroken: Unbroken, small_model: Path, tmp_path: Path) -> None:
    kill_and_resume(tmp_path / "run", small_model, SMALL, event, step)
    assert_bitwise_equal(tmp_path / "run", unbroken[SMALL])


@pytest.mark.proof
def test_kill_and_resume_sharded(unbroken: Unbroken, small_model: Path, tmp_path: Path) -> None:
    kill_and_resume(tmp_path / "run", small_model, SHARDED, "checkpoint_written", 4)
    assert_bitwise_equal(tmp_path / "run", unbroken[SHARDED])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "step"), [*(pytest.param(*death, marks=pytest.mark.proof) for death in DEATHS[:3]), DEATHS[3]]
)
@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.proof)])
def test_kill_and_resume_sharded_matrix(
    event: str, step: int, rank: int, unbroken: Unbroken, small_model: Path, tmp_path: Path
) -> None:
    death = f"+callbacks.kill={{_target_: tests.support.killer.Kill, event: {event}, step: {step}, rank: {rank}}}"
    cli(*command(tmp_path / "run", small_model, SHARDED, death), cwd=ROOT, check_code=137)
    cli(*command(tmp_path / "run", small_model, SHARDED), cwd=ROOT)
    assert_bitwise_equal(tmp_path / "run", unbroken[SHARDED])


@pytest.mark.parametrize(
    ("name", "event", "step"),
    [
        pytest.param("reward", "checkpoint_written", 4, marks=pytest.mark.slow),
        pytest.param("lora", "step_end", 3, marks=pytest.mark.proof),
        pytest.param("reward sharded", "eval_batch", 4, marks=pytest.mark.proof),
        pytest.param("lora sharded", "checkpoint_renamed", 4, marks=pytest.mark.slow),
        pytest.param("reward with lora", "checkpoint_written", 4, marks=pytest.mark.proof),
        pytest.param("kto", "step_end", 3, marks=pytest.mark.proof),
    ],
)
def test_kill_and_resume_of_other_models(name: str, event: str, step: int, small_model: Path, tmp_path: Path) -> None:
    cli(*command(tmp_path / "unbroken", small_model, OTHERS[name]), cwd=ROOT)
    kill_and_resume(tmp_path / "run", small_model, OTHERS[name], event, step)
    assert_bitwise_equal(tmp_path / "run", tmp_path / "unbroken")


WRITES = ("reward=tiny", "algo.samples=2", "rollout.max_tokens=12")
WIDE = {
    "bf16": (*SMALL, "cluster.threads=2", "model.dtype=bf16"),
    "fp32": (*SMALL, "cluster.threads=2"),
    "bf16 lora": (*LORA, "model.dtype=bf16"),
    "bf16 reward": (*REWARD, "cluster.threads=2", "model.dtype=bf16"),
    "bf16 stage 1": ("zero=1", "cluster.processes=2", "model.dtype=bf16"),
    "bf16 stage 2": ("zero=2", "cluster.processes=2", "model.dtype=bf16"),
    "bf16 stage 3": (*SHARDED, "model.dtype=bf16"),
    "bf16 online": (*SMALL, "cluster.threads=2", "model.dtype=bf16", "algo=online_dpo", *WRITES),
    "bf16 ppo": (*SMALL, "cluster.threads=2", "model.dtype=bf16", "algo=ppo", *WRITES),
}


@pytest.mark.parametrize(
    ("name", "event", "step"),
    [
        pytest.param("bf16", *DEATHS[1], marks=pytest.mark.slow),
        *(
            pytest.param(name, *death, marks=pytest.mark.proof)
            for name in WIDE
            for death in DEATHS
            if death[0] != "eval_batch" or name not in ("bf16 online", "bf16 ppo")  # they evaluate replies, not batches
        ),
    ],
)
def test_kill_and_resume_with_heads_of_64(name: str, event: str, step: int, wide_model: Path, tmp_path: Path) -> None:
    cli(*command(tmp_path / "unbroken", wide_model, WIDE[name]), cwd=ROOT)
    kill_and_resume(tmp_path / "run", wide_model, WIDE[name], event, step)
    assert_bitwise_equal(tmp_path / "run", tmp_path / "unbroken")


@pytest.mark.proof
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_fifty_equal_commands_give_equal_bits(name: str, loaded: bool, wide_model: Path, tmp_path: Path) -> None:
    """Two lanes train in two threads; with `loaded`, other processes keep all cores busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(3 if loaded else 0)]
    try:
        for number in range(50):
            cli(*command(tmp_path / f"{number}", wide_model, WIDE[name], "max_steps=2"), cwd=ROOT)
            assert metrics_of(tmp_path / f"{number}") == metrics_of(tmp_path / "0"), number
    finally:
        for process in busy:
            process.kill()


@pytest.mark.parametrize(("event", "step"), [("step_end", 3), pytest.param("eval_batch", 4, marks=pytest.mark.proof)])
def test_stop_file_saves_and_the_same_command_goes_on(
    event: str, step: int, unbroken: Unbroken, small_model: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    touch = f"+callbacks.touch={{_target_: tests.support.killer.Touch, event: {event}, step: {step}}}"
    stopped = cli(*command(run_dir, small_model, SMALL, touch), cwd=ROOT, check_code=75)
    assert "stopped at step" in stopped.stderr
    assert read_json(run_dir / "summary.json")["status"] == "stopped"
    cli(*command(run_dir, small_model, SMALL), cwd=ROOT)
    assert_bitwise_equal(run_dir, unbroken[SMALL])


@pytest.mark.parametrize("algo", ["dpo", pytest.param("kto", marks=pytest.mark.slow)])
def test_finished_run_says_so_and_may_grow(algo: str, small_model: Path, tmp_path: Path) -> None:
    """A longer run visits more rows, from which KTO also takes its mismatched replies."""
    run_dir = tmp_path / "run"
    common = [f"algo={algo}", f"model.path={small_model}", "debug=fast", "algo.schedule=constant"]
    short = [f"run_dir={run_dir}", *common]
    cli("train", *short, cwd=ROOT)
    again = cli("train", *short, cwd=ROOT)
    assert "already finished" in again.stdout
    longer = cli("train", *short, "max_steps=3", cwd=ROOT)
    assert "resuming from step 2 of 3" in longer.stderr
    cli("train", f"run_dir={tmp_path / 'unbroken'}", *common, "max_steps=3", cwd=ROOT)
    lines, whole = metrics_of(run_dir), metrics_of(tmp_path / "unbroken")
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert [line.get("loss") for line in lines] == [line.get("loss") for line in whole]
    shrunk = cli("train", *short, "max_steps=1", cwd=ROOT, check_code=2)
    assert "may grow but not shrink" in shrunk.stderr


@pytest.mark.slow
def test_damaged_checkpoint_is_passed_over(small_model: Path, unbroken: Unbroken, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    kept = command(run_dir, small_model, SMALL, "checkpoint.keep_last=3")
    death = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 5}"
    cli(*kept, death, cwd=ROOT, check_code=137)
    newest = latest_checkpoint(run_dir)
    assert newest is not None and newest.name == "step-000004"
    victim = max((path for path in newest.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    victim.write_bytes(victim.read_bytes()[:100])
    again = cli(*kept, cwd=ROOT)
    assert "resuming from step 2" in again.stderr
    assert_bitwise_equal(run_dir, unbroken[SMALL])


@pytest.mark.slow
@pytest.mark.parametrize("setting", [SMALL, SHARDED])
def test_a_full_disk_ends_the_run_in_a_line_and_the_same_command_goes_on(
    setting: tuple[str, ...], unbroken: Unbroken, small_model: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    full = "+callbacks.full={_target_: tests.support.killer.FullDisk, step: 3}"
    stopped = cli(*command(run_dir, small_model, setting, full), cwd=ROOT, check_code=75)
    (line,) = [line for line in stopped.stderr.splitlines() if "error" in line]
    assert line.startswith(f"error: {run_dir}/checkpoints/step-000004: cannot be written (File too large)")
    assert "Traceback" not in stopped.stderr
    assert read_json(run_dir / "state.json")["phase"] == "stopped"
    assert not [path for path in run_dir.rglob("*") if path.name.endswith((".tmp", ".old"))]
    again = cli(*command(run_dir, small_model, setting), cwd=ROOT)
    assert "resuming from step 2" in again.stderr
    assert_bitwise_equal(run_dir, unbroken[setting])


@pytest.mark.slow
def test_other_processes_and_another_stage_go_on(unbroken: Unbroken, small_model: Path, tmp_path: Path) -> None:
    """The resumed run saves every step, because `checkpoint.minutes` have always passed."""
    run_dir = tmp_path / "run"
    touch = "+callbacks.touch={_target_: tests.support.killer.Touch, event: step_end, step: 3}"
    cli(*command(run_dir, small_model, SMALL, touch), cwd=ROOT, check_code=75)
    more = ("checkpoint.every=0", "checkpoint.minutes=1e-6", "checkpoint.keep_last=9")
    again = cli(*command(run_dir, small_model, SHARDED, *more), cwd=ROOT)
    assert "resuming from step 3" in again.stderr
    got, expected = metrics_of(run_dir), metrics_of(unbroken[SMALL])
    assert got[:4] == expected[:4]
    assert got[4]["loss"] == pytest.approx(expected[4]["loss"], rel=1e-6)
    assert got[6]["eval/loss"] == pytest.approx(expected[6]["eval/loss"], rel=1e-4)
    kept = [path.name for path in complete_checkpoints(run_dir)]
    assert kept == ["step-000003", "step-000004", "step-000005", "step-000006"]
