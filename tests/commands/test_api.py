"""Tests of `psychocounsel.api`: it does the same as the commands and reports the result."""

import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel import api
from psychocounsel.data.dataset import Dataset
from psychocounsel.errors import GATE_NO, UserError
from psychocounsel.rundir.results import read_metrics
from psychocounsel.storage.files import read_json
from tests.support.harness import cli, metrics_of, write_jsonl
from tests.support.safety_folders import AGREES, fitting, safety_run

pytestmark = pytest.mark.usefixtures("own_environment")

STEPS = 3
SETTINGS = ["algo=reward", f"max_steps={STEPS}", "data.limit=96", "eval.limit=20", "eval.every=0", "algo.lr=3e-3"]
SETTINGS += ["algo.warmup=0", "cluster.threads=1"]


@pytest.fixture(scope="module")
def settings(small_model: Path) -> list[str]:
    return [*SETTINGS, f"model.path={small_model}"]


@pytest.fixture(scope="module")
def result(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> api.RunResult:
    folder = tmp_path_factory.mktemp("api")
    return api.train([*settings, f"run_dir={folder}/run", f"paths.cache={folder}/cache"])


def test_composing_imports_no_torch() -> None:
    script = "import sys; from psychocounsel import api; api.compose(['algo=ppo']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.slow
def test_a_run_from_python_is_the_run_of_the_command(
    result: api.RunResult, settings: list[str], tmp_path: Path
) -> None:
    cli("train", *settings, f"paths.cache={result.run_dir.parent}/cache", "run_dir=run", cwd=tmp_path)
    theirs = tmp_path / "run"
    weights = [run / "model" / "model.safetensors" for run in (theirs, result.run_dir)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert metrics_of(result.run_dir) == metrics_of(theirs)
    configs = [OmegaConf.load(run / "config.yaml") for run in (theirs, result.run_dir)]
    for config in configs:
        # These keys depend on the working directory of the command.
        del config.run_dir, config.code_path, config.paths.output
    assert configs[0] == configs[1]
    typed = [line for line in (result.run_dir / "overrides.txt").read_text().splitlines() if "run_dir" not in line]
    assert typed == [*settings, f"paths.cache={result.run_dir.parent}/cache"]


def test_each_way_in_which_a_run_ends_has_a_word_and_a_sentence(tmp_path: Path) -> None:
    words = {code: api._STATUS.get(code, "failed") for code in (0, 1, 3, 4, 75)}
    assert list(words.values()) == ["finished", "failed", "guarded", "undecided", "stopped"]
    sentences = {api._message(word, tmp_path, code, []) for code, word in words.items()}
    assert len(sentences) == 5 and all(each.startswith(f"{tmp_path}: ") for each in sentences)


def test_the_result_holds_what_the_run_wrote(result: api.RunResult) -> None:
    assert (result.status, result.exit_code) == ("finished", 0)
    written = read_json(result.run_dir / "summary.json")["metrics"]
    assert (result.before, result.best, result.last) == (written["before"], written["best"], written["last"])
    assert result.metrics() == read_metrics(result.run_dir / "metrics.jsonl")
    evaluations = [line["eval/loss"] for line in result.metrics()[1:] if "eval/loss" in line]
    assert result.best["eval/loss"] == min(evaluations)
    assert [line["step"] for line in result.metrics()] == list(range(STEPS + 1))


def test_a_finished_run_is_returned_and_not_trained_again(result: api.RunResult, settings: list[str]) -> None:
    said: list[str] = []
    again = api.train(
        [*settings, f"run_dir={result.run_dir}", f"paths.cache={result.run_dir.parent}/cache"], said.append
    )
    assert again == result
    assert said == [f"{result.run_dir} is already finished: see summary.json and model/ in it"]


def test_groups_are_those_that_training_saw(result: api.RunResult, settings: list[str]) -> None:
    said: list[str] = []
    train, held_out = api.load_groups([*settings, f"paths.cache={result.run_dir.parent}/cache"], said.append)
    assert (len(train), len(held_out)) == (96, 20)
    assert Dataset(train, held_out).fingerprint() == read_json(result.run_dir / "environment.json")["data"]
    assert any("pairs dropped" in line for line in said)


@pytest.mark.slow
def test_evaluation_gives_the_figures_of_the_command(result: api.RunResult, tmp_path: Path) -> None:
    given = [f"reward.path={result.run_dir}/model", "limit=40", "cluster.threads=1"]
    figures = api.evaluate(api.compose([*given, f"run_dir={tmp_path}/ours"], name="evaluate"))
    cli("evaluate", *given, "run_dir=theirs", cwd=tmp_path)
    assert figures == read_json(tmp_path / "theirs" / "summary.json")["metrics"]
    assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]


@pytest.mark.slow
def test_a_gate_that_does_not_pass_gives_its_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = safety_run(tmp_path / "safety", {"mine": lambda each: AGREES, "base": fitting}, limit=30)
    monkeypatch.setenv("PSYCHOCOUNSEL_TRUST", str(part))  # the judge is the tests' own code
    given = [f"gate.from=[{part}]", "gate.parts=[safety]", f"run_dir={tmp_path}/gate"]
    figures = api.evaluate(["evaluation=gate", *given])
    assert (figures["code"], figures["missed"]) == (GATE_NO, 1)
    assert figures == read_json(tmp_path / "gate" / "summary.json")["metrics"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["algo=dppo"], "algo=dppo: no such choice; did you mean"),
        (["algo.betta=1"], "unknown key algo.betta: did you mean algo.beta?"),
        (["global_batch_size=0"], "global_batch_size=0"),
        (["data.path=nowhere.jsonl"], "data.path=nowhere.jsonl: no such file or folder"),
        (["seed"], "seed: is not of the form KEY=VALUE"),
        (["dry_run=true"], "dry_run=true starts nothing"),
        ("algo=dpo", r"overrides are a list of strings: \['algo=dpo'\]"),
        ([1], r"overrides are a list of strings: \[1\]"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    overrides: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        api.train(overrides)
    assert not list(tmp_path.iterdir())


def test_a_configuration_is_checked_again_where_it_was_changed() -> None:
    config = api.compose(["algo=dpo"])
    config.algo.beta = -1
    with pytest.raises(UserError, match="algo.beta=-1"):
        api.train(config)
    with pytest.raises(UserError, match='belongs to another command: use compose\\(..., name="evaluate"\\)'):
        api.evaluate(api.compose(["algo=dpo"]))


@pytest.mark.slow
def test_what_only_the_worker_can_see_is_a_user_error_as_well(settings: list[str], tmp_path: Path) -> None:
    rows = [
        {"prompt": "I can't sleep.", "chosen": "Since when?", "rejected": "Sleep."},
        {"prompt": "Hm.", "chosen": "?"},
    ]
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match="line 2: has no rejected"):
        api.train([*settings, f"data.path={data}", "data.dev_fraction=0", f"run_dir={tmp_path}/run"])


@pytest.mark.slow
def test_an_interrupted_run_saves_and_a_stopped_one_says_so(settings: list[str], tmp_path: Path) -> None:
    small = ["global_batch_size=8", "data.limit=32", "eval.limit=4", "max_steps=30"]
    longer = [*settings, *small, f"run_dir={tmp_path}/run", f"paths.cache={tmp_path}/cache"]

    def interrupt(line: str) -> None:
        if line.startswith("step 3/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="exit code 75"):
        api.train(longer, interrupt)
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "stopped"
    before = len(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    assert 3 < before < 15

    def stop(line: str) -> None:
        if line.startswith("step 15/"):
            (tmp_path / "run" / "stop").touch()

    stopped = api.train(longer, stop)
    assert (stopped.status, stopped.exit_code) == ("stopped", 75)
    assert stopped.message.endswith(f"stopped and saved; resume with the same configuration and run_dir={tmp_path}/run")
    assert [line["step"] for line in stopped.metrics()] == list(range(len(stopped.metrics())))
    assert before < len(stopped.metrics()) < 31, "training resumed from the step of the interruption"


_BROKEN = """
from dataclasses import dataclass
from psychocounsel.algo.base import Algorithm, Needs, Term

@dataclass
class Broken(Algorithm):
    needs = Needs(data="pairs")

    def loss(self, outputs, batch):
        return {"nan": Term(outputs.logprobs.sum() * float("nan"), "pairs")}
"""


@pytest.mark.slow
def test_a_failure_of_ones_own_algorithm_is_told(small_model: Path, tmp_path: Path) -> None:
    (tmp_path / "my" / "algo").mkdir(parents=True)
    (tmp_path / "my" / "broken.py").write_text(_BROKEN)
    (tmp_path / "my" / "algo" / "broken.yaml").write_text("_target_: broken.Broken\nlr: 1e-6\n")
    overrides = ["algo=broken", f"model.path={small_model}", "data.limit=32", "data.dev_fraction=0", "max_steps=1"]
    overrides += ["cluster.threads=1", f"run_dir={tmp_path}/run"]
    failed = api.train(api.compose(overrides, config_dir=tmp_path / "my"))
    assert (failed.status, failed.exit_code, failed.best) == ("failed", 1, {})
    assert f"failed with exit code 1 ({tmp_path}/run failed (rank 0" in failed.message
    with pytest.raises(UserError, match="no such folder"):
        api.compose(overrides, config_dir=tmp_path / "yours")
