"""The pages' commands that need no hub, GPU, server or SLURM run, each in a folder with the files that its page takes as given.

Long commands are shortened by more overrides: two steps, few pairs, replies of some tokens. Their own keys stay as printed.
The tutorial and docs/your-data.md run as printed, in tests/docs/test_doc_code.py and tests/packaging/test_wheel.py.
"""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_doc_commands import shown
from tests.support.doc_blocks import Command
from tests.support.doc_reader import EXIT_CODES, completed, make_folder
from tests.support.doc_runs import write_files
from tests.support.harness import ROOT, cli

pytestmark = pytest.mark.slow

_RUN = ("train", "evaluate", "audit", "annotate", "agreement", "export", "report", "jobs", "cache", "launch")
# Commands that need a GPU, hours, a hub, other projects' files, a server or a cluster. Other files run those of clusters.
_ELSEWHERE = re.compile(
    r"vllm|qwen|llama|nemotron|smollm2|_8b|_3b|http|openai|slurm|=psychocounsel|nf4|vera_mh|played"
    r"|study=(paper|algorithms|sessions|real|NAME)|lm_eval|push=|/runs/anna|\$SCRATCH|quickstart$",
    re.IGNORECASE,
)
# Tests of own clusters, served pages, experts' answers, jobs of SLURM and endless output are in other files.
_TESTED_ELSEWHERE = re.compile(
    r"cluster=queue|--watch|--open|set_review|adjudicated|experts=|gate\.from|attach|forget|sync|INDEX|scores\.votes|^cancel$"
    r"|studies/|^data=my_preferences$"
)


def _here() -> Iterator[Command]:
    for each in shown():
        text = " ".join(each.arguments)
        tutorials = ("docs/tutorial.md", "docs/your-data.md")
        runs = each.name in _RUN and each.page not in tutorials
        if runs and not _ELSEWHERE.search(text) and not _TESTED_ELSEWHERE.search(text):
            yield each


# Groups of which each choice is run; of other keys, any value is.
_CHOICES = (
    "algo",
    "cluster",
    "data",
    "debug",
    "evaluation",
    "judge",
    "model",
    "personas",
    "reward",
    "rollout",
    "study",
    "zero",
)
_PLACES = ("run_dir", "sweep_dir", "seed")


def _features(command: Command) -> set[str]:
    """Return the keys and choices of a command, each with the command's name."""
    shown_keys = {command.name}
    for text in command.arguments:
        key, is_pair, value = text.lstrip("+").partition("=")
        if key not in _PLACES:
            shown_keys.add(
                f"{command.name} {text if key in _CHOICES or not is_pair or value in ('true', 'false') else key}"
            )
    return shown_keys


def _cases() -> Iterator[Any]:
    """Yield all commands; those that show no further key or choice are proofs, because the others run all of them."""
    waiting = list(_here())
    missing = set[str]().union(*map(_features, waiting))
    while waiting:
        most = max(waiting, key=lambda command: len(_features(command) & missing))
        waiting.remove(most)
        name = f"{most.page}:{most.line}".replace("/", ".")
        yield pytest.param(most, id=name, marks=[] if _features(most) & missing else pytest.mark.proof)
        missing -= _features(most)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the runs, preferences and files that commands of the pages name."""
    folder = tmp_path_factory.mktemp("reader")
    make_folder(folder)
    return folder


@pytest.mark.parametrize("command", _cases())
def test_a_command_of_the_pages_runs(command: Command, given: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(given, folder, symlinks=True)
    write_files(ROOT / command.page, folder)
    arguments = completed(command)
    for text in arguments:  # a new run or sweep of that name
        key, _, value = text.partition("=")
        goes_on = "steps=[statistics]" in arguments
        if key in ("run_dir", "sweep_dir") and not goes_on:
            shutil.rmtree(folder / value, ignore_errors=True)
    done = cli(command.name, *arguments, cwd=folder, check_code=None, WANDB_MODE="offline")
    text = " ".join(arguments)
    allowed = next((codes for part, codes in EXIT_CODES.items() if part in text), (0,))
    assert done.returncode in allowed, f"{command}\n{arguments}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    shutil.rmtree(folder)
