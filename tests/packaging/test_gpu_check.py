"""Tests of the GPU check: its runner, its comparisons as far as they run on CPU, and its table."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu_check.__main__ import main
from benchmarks.gpu_check.attention_error import attention, distances, verdict
from benchmarks.gpu_check.check_rows import NAMES, Row
from benchmarks.gpu_check.full_size import estimated, make_bench, mfu, write_sample_pairs
from benchmarks.gpu_check.nccl import all_reduce
from benchmarks.gpu_check.running import FAILED, MISSED, NOT_RUN, PASSED, line, markdown, missing, results, run
from benchmarks.gpu_check.training_equality import compare, compare_lora, compare_offload, compare_reshard, difference
from benchmarks.sizes import SMOKE
from tests.support.harness import ROOT

HERE: dict[str, Any] = {"python": "3.11", "packages": {"vllm": None, "trl": "1.16"}, "gpus": [{"name": "G", "gb": 80}]}


def row(name: str = "r", seconds: int = 20, gpus: int = 1, packages: tuple[str, ...] = ()) -> Row:
    return Row(name, "about", "file:function", "goal", seconds, gpus, packages)


def test_without_a_gpu_every_row_says_so_and_the_check_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path / "check.json")])
    main()
    report = json.loads((tmp_path / "check.json").read_text())
    assert [each["name"] for each in report["rows"]] == list(NAMES)
    assert {(each["result"], each["figure"]) for each in report["rows"]} == {(NOT_RUN, "no GPU that torch can use")}
    assert report["packages"]["torch"] == torch.__version__


def test_a_row_needs_gpus_packages_and_time() -> None:
    assert missing(row(), HERE) == ""
    assert missing(row(gpus=2), HERE) == "needs 2 GPUs"
    assert missing(row(packages=("trl", "vllm")), HERE) == "vllm is not installed"
    (late,) = results([row()], HERE, [], ends=time.monotonic() + 5)
    assert late.result == NOT_RUN and late.figure.startswith("no time is left")


@pytest.mark.parametrize(
    ("code", "result", "figure"),
    [
        ('print(\'noise\'); print(\'{"result": "passed", "figure": "1", "values": {}}\')', PASSED, "1"),
        ("raise ValueError('no kernel image')", FAILED, "ValueError: no kernel image"),
        ("import os; os.abort()", FAILED, "ended with exit code -6"),
    ],
)
def test_what_a_row_comes_to(code: str, result: str, figure: str) -> None:
    found = run(row(), [sys.executable, "-c", code], 20)
    assert (found.result, found.figure) == (result, figure)


@pytest.mark.parametrize(("is_target", "result"), [(True, MISSED), (False, FAILED)])
def test_a_missed_target_is_no_failure(is_target: bool, result: str) -> None:
    code = 'print(\'{"result": "missed", "figure": "40 %", "values": {}}\')'
    asked = Row("r", "about", "file:function", "50 %", is_target=is_target)
    assert run(asked, [sys.executable, "-c", code], 20).result == result


def test_a_row_that_hangs_ends_with_all_that_it_started(tmp_path: Path) -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '99']); print(p.pid, file=open(sys.argv[1], 'w')); p.wait()"
    found = run(row(seconds=2), [sys.executable, "-c", code, str(tmp_path / "pid")], 20)
    assert (found.result, found.figure) == (FAILED, "took more than 2 s") and found.seconds < 10
    child = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}/stat").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the row's child process is still alive"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_varlen_attention_passes_on_the_cpu(dtype: torch.dtype) -> None:
    met, figure, errors = attention("varlen", ("llama", "mistral"), "cpu", dtype)
    assert met, figure
    largest = 1e-5 if dtype == torch.float32 else 0.05
    assert all(0 < error < largest for each in errors.values() for error in each["varlen"].values())


def test_a_kernel_that_errs_more_than_rounding_misses_the_goal() -> None:
    truth = {"logprobs": torch.tensor([3.0, 4.0])}
    plain, worse = ({"logprobs": truth["logprobs"] + by} for by in (0.01, 0.02))
    errors = {"plain": distances(plain, truth), "other": distances(worse, truth)}
    assert errors["plain"]["logprobs"] == pytest.approx(0.01 * 2**0.5 / 5, rel=1e-3)
    assert verdict({"llama": errors}, "plain", "other")[0] is False
    assert verdict({"llama": errors | {"other": errors["plain"]}}, "plain", "other")[0] is True


@pytest.mark.slow
def test_zero_stages_equal_the_plain_run_and_a_broken_run_is_named(tmp_path: Path) -> None:
    met, figure, differences = compare(tmp_path, ("3",), "cpu", processes=2)
    assert met and set(differences) == {"3"}, figure
    assert difference([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    with pytest.raises(RuntimeError, match="2_offload: .*this machine has no GPU"):
        compare(tmp_path / "offload", ("2_offload",), "cpu")


@pytest.mark.proof
@pytest.mark.parametrize("compared", [compare_lora, compare_reshard])
def test_runs_on_the_same_device_are_equal(compared: Any, tmp_path: Path) -> None:
    met, figure, _ = compared(tmp_path, "cpu")
    assert met, figure


@pytest.mark.slow
def test_ppo_whose_idle_models_leave_is_compared_with_one_whose_stay(tmp_path: Path) -> None:
    """On CPU no model is moved, so the two runs are equal to the last bit."""
    met, figure, values = compare_offload(tmp_path, "cpu")
    assert met and values == {"offload-false": 0.0} and figure == "at most 0.0e+00 (offload-false against offload-true)"


@pytest.mark.slow
@pytest.mark.usefixtures("vllm")
def test_an_engine_that_loads_weights_again_writes_the_same(tmp_path: Path) -> None:
    code = "import os, sys; from benchmarks.gpu_check.engine_reload import reload; print(*reload(tuple(sys.argv[1:]))[:2]); "
    code += "sys.stdout.flush(); os._exit(0)"  # a worker ends in the same way
    command = [sys.executable, "-c", code, f"paths.cache={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines()[-1].startswith("True equal tokens after sleep and after new weights"), done.stderr[
        -2000:
    ]


@pytest.mark.slow
def test_mfu_of_random_weights_is_measured(tmp_path: Path) -> None:
    write_sample_pairs(tmp_path / "pairs.jsonl")
    _, figure, values = mfu(make_bench(tmp_path, tmp_path / "pairs.jsonl", SMOKE, "cpu"))
    assert 0 < values["mfu"] < 1 and values["tokens_per_second"] > 0 and figure.endswith(" GB")


@pytest.mark.slow
def test_memory_of_an_adapter_is_estimated_and_measured_on_device_and_host(tmp_path: Path) -> None:
    write_sample_pairs(tmp_path / "pairs.jsonl")
    bench = make_bench(tmp_path, tmp_path / "pairs.jsonl", SMOKE, "cpu")
    found = estimated(bench, {"model.lora.rank": 2, "zero": 1})
    assert found["estimate_gb"] > 0 and found["host_gb"] == pytest.approx(
        found["peak_gb"], rel=0.1
    )  # both the process's


@pytest.mark.slow
def test_bandwidth_of_two_processes_is_measured(tmp_path: Path) -> None:
    assert 0.01 < all_reduce(tmp_path, 2, "gloo", 10**7) < 100


def test_the_table_has_a_row_for_each_check() -> None:
    found = run(row("varlen"), [sys.executable, "-c", "raise ValueError('a | b')"], 20)
    report = HERE | {"date": "2026-11-24T10:00+00:00", "rows": [vars(found)]}
    last = markdown(report).splitlines()[-1]
    assert last == "| about | FAILED | ValueError: a \\| b | goal |"
    assert markdown(report).startswith("2026-11-24: G (80 GB); Python 3.11")
    assert line(vars(found)).startswith("varlen       FAILED") and MISSED not in line(vars(found))


def test_unknown_rows_and_files_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed, message in (
        (["--only", "varlan"], "rows are varlen, vllm"),
        (["--table", "nope"], "no such file"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu_check", *typed])
        with pytest.raises(SystemExit, match="2"):
            main()
        assert message in capsys.readouterr().err
