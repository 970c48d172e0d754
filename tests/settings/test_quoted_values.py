"""Tests of the advice on a text that Hydra's grammar cannot read: typed in bash as printed, it gives this very text."""

import subprocess

import pytest

from tests.support.composed import checked
from tests.support.in_process import run_here

_TEXTS = [
    "Answer the client's words.",
    "Don't say \"don't\" (ever), because a=b!",
    'Say "I hear you", and pause.',
    "It costs $5, or $HOME, or `date`.",
    "It's \\'so\\' in C:\\",
    "Be kind, be brief",
    "Answer (briefly).",
    "a=b",
    "[a] it's {b}",
    "Écoute; # & < > ~ ^ | *",
]


@pytest.mark.parametrize("text", _TEXTS)
def test_the_advised_words_work_in_bash(text: str, own_environment: None) -> None:
    refused = run_here(_in_double_quotes(f"model.system_prompt={text}"), rows=False)
    assert refused.code == 2 and refused.stderr.count("\n") == 1
    (_, advised) = refused.stderr.rstrip("\n").rsplit(" as well: " if " as well: " in refused.stderr else " type ", 1)
    word = subprocess.run(["bash", "-c", f"printf %s {advised}"], capture_output=True, text=True, check=True).stdout
    assert checked(word).model.system_prompt == text


def _in_double_quotes(override: str) -> str:
    escaped = override.replace("\\", "\\\\").replace('"', '\\"')
    return f'train "{escaped}"'
