"""Tests of `psychocounsel COMMAND`: running the commands, listing them, and completion in the shell."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from psychocounsel import __version__
from psychocounsel.__main__ import COMMANDS
from psychocounsel.commands.help import complete, shell_script
from psychocounsel.errors import PrintableStream, UserError, controlled
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import write_summary
from psychocounsel.rundir.run_config import write_config, write_job
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli

CONSOLE = [sys.executable, "-m", "psychocounsel"]


def console(*arguments: str, cwd: Path, check_code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*CONSOLE, *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == check_code, done.stdout + done.stderr
    return done


def test_every_command_is_listed_with_what_it_does(tmp_path: Path) -> None:
    lines = console("--help", cwd=tmp_path).stdout.splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ") and not line.strip().startswith("--")]
    hidden = {"__init__", "__main__", "api", "environment", "errors", "worker"}
    assert sorted(listed) == sorted({file.stem for file in (ROOT / "psychocounsel").glob("*.py")} - hidden)
    assert all(len(line.split()) > 3 and "`" not in line.split("  ")[1] for line in lines[2 : 2 + len(COMMANDS)])
    assert console("--version", cwd=tmp_path).stdout == f"psychocounsel {__version__}\n"


def test_pages_and_messages_spell_every_command_in_one_way() -> None:
    folders = [ROOT / name for name in ("psychocounsel", "conf", "launch", "slurm", "docs", "benchmarks", ".github")]
    files = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Makefile"]
    files += [
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.suffix in (".py", ".yaml", ".md", ".j2", ".jinja")
    ]
    module = re.compile(rf"python -m psychocounsel\.({'|'.join(COMMANDS)})\b")
    wrong = [f"{file}: {found[0]}" for file in files for found in module.finditer(file.read_text(encoding="utf-8"))]
    assert [line for line in wrong if "__main__.py" not in line] == []


def test_a_command_runs_as_by_its_module_and_ends_with_its_code(tmp_path: Path) -> None:
    assert "did you mean dpo?" in console("train", "algo=dop", cwd=tmp_path, check_code=2).stderr
    assert "no such folder" in console("jobs", "status", "nowhere", cwd=tmp_path, check_code=2).stderr
    assert "did you mean train?" in console("trian", cwd=tmp_path, check_code=2).stderr


def test_a_reader_that_has_stopped_causes_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*CONSOLE, "completion", "bash"], cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.stderr == b""


def test_words_that_may_follow() -> None:
    assert complete(["", "tr"], COMMANDS) == COMMANDS
    assert {"algo=dpo", "algo=ppo"} <= set(complete(["train", "algo="], COMMANDS))
    words = complete(["train", ""], COMMANDS)
    assert {"algo=", "max_length=", "checkpoint.metric=", "data.min_gap=", "algo.beta="} <= set(words)
    assert not {"hydra=", "paths=", "annotator=", "judge=", "shared="} & set(words)
    assert complete(["prepare", ""], COMMANDS) == words
    assert {"status", "logs", "resubmit"} <= set(complete(["jobs", ""], COMMANDS))
    assert complete(["jobs", "status", ""], COMMANDS) == [], "the shell proposes folders"
    assert {"study=paper", "study=quickstart"} <= set(complete(["launch", "study="], COMMANDS))
    assert {"study=", "study_dir="} <= set(complete(["launch", "study", "=", "paper", ""], COMMANDS))
    assert complete(["report", ""], COMMANDS) == []
    assert {"speeches=", "annotator=", "pairs.min_gap="} <= set(complete(["annotate", ""], COMMANDS))


def test_help_of_a_command_is_its_own(tmp_path: Path) -> None:
    said = console("prepare", "--help", cwd=tmp_path).stdout
    assert "fetches the models and data of jobs" in said and "hydra/sweeper" not in said
    (tmp_path / "mine" / "evaluation").mkdir(parents=True)
    (tmp_path / "mine" / "evaluation" / "smiles.yaml").write_text(
        "# @package _global_\n# Counts smiles (docs/smiles.md).\n"
    )
    said = console("evaluate", "--help", "--config-dir=mine", cwd=tmp_path).stdout
    lines = {line.split()[0]: line for line in said.splitlines() if line.startswith("  evaluation=")}
    assert lines["evaluation=smiles"].endswith("  Counts smiles.")
    assert sorted(lines) == sorted(
        f"evaluation={name}"
        for name in ["smiles", *(file.stem for file in (ROOT / "conf" / "evaluation").glob("*.yaml"))]
    )
    assert all(len(line.split()) > 4 for name, line in lines.items() if name != "evaluation=smiles")


def test_bash_completes_a_choice(tmp_path: Path) -> None:
    (tmp_path / "psychocounsel").write_text(f'#!/bin/sh\nexec {sys.executable} -m psychocounsel "$@"\n')
    (tmp_path / "psychocounsel").chmod(0o755)
    (tmp_path / "completion").write_text(shell_script(["bash"]))
    (tmp_path / "conf" / "algo").mkdir(parents=True)  # a folder of another project
    (tmp_path / "conf" / "algo" / "online_d$(touch ran).yaml").touch()
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    for typed, expected in (("train algo=online_d", "algo=online_dpo"), ("jobs res", "resubmit"), ("jobs status ", "")):
        words = typed.split(" ")
        ask = (
            f"source completion; COMP_LINE='psychocounsel {typed}'; COMP_POINT=${{#COMP_LINE}}; "
            f"COMP_WORDS=(psychocounsel {' '.join(words[:-1])} '{words[-1]}'); COMP_CWORD={len(words)}; "
            "_psychocounsel; echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == expected, done.stderr
    assert not (tmp_path / "ran").exists()
    with pytest.raises(UserError, match="bash or zsh"):
        shell_script(["fish"])


_CONTROLS = "\x1b]0;owned\x07\x1b[31m\u202eevil\x9b2J"
_DANGEROUS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def received(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from somebody else, with control characters wherever a command could print them."""
    parent = tmp_path_factory.mktemp("received")
    run = parent / f"run {_CONTROLS}"
    attempt = RunDir(run).attempt(1)
    attempt.path.mkdir(parents=True)
    write_config(run, check(compose([f"run_dir={parent}/run"])))
    write_job(run, "psychocounsel.train", 0, [])
    attempt.log(0).write_text(f"begins {_CONTROLS}\nsteps\rover it\n")
    (run / "overrides.txt").write_text(f"seed={_CONTROLS}\n")
    verdict = {"word": f"wins {_CONTROLS}", "text": f"it wins {_CONTROLS}", "cautions": [f"few {_CONTROLS}"]}
    write_summary(run, "finished", verdicts=[verdict], metrics={})
    return run


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["jobs", "logs", "{run}"], "begins "),
        (["jobs", "list", "{parent}"], "1 finished"),
        (["jobs", "status", "{run}"], "it wins "),
        (["jobs", "status", "{parent}"], "1 finished"),
        (["jobs", "resubmit", "{run}", "code=\x1b[31m"], "code="),
        (["report", "{run}/none"], "none"),
        (["train", "after=[{run}]", "dry_run=true"], "error: "),
        (["cache", "{run}"], ""),
    ],
)
def test_no_command_prints_control_characters_of_a_folder(command: list[str], says: str, received: Path) -> None:
    given = [text.format(run=received, parent=received.parent) for text in command]
    done = cli(*given, cwd=received.parent, check_code=None)
    shown = done.stdout + done.stderr
    assert says in shown and not _DANGEROUS.search(shown), shown


def test_a_stream_prints_what_its_encoding_has_and_lets_this_programs_own_controls_through() -> None:
    below = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    stream: Any = PrintableStream(below)
    print("a\x1b[2J \u2713\ud800", file=stream)
    stream.writelines(["b\r\n", "c\rd\n"])
    controlled(stream).write("\r\x1b[K")
    assert below.buffer.getvalue() == b"a?[2J ??\nb\nc\nd\n\r\x1b[K"
    assert controlled(below) is below and stream.encoding == "ascii"
