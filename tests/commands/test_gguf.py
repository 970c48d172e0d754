"""Tests of GGUF files and folders given as models: every command refuses them with one sentence, before anything is made."""

from pathlib import Path

import pytest

from psychocounsel.errors import USER_ERROR
from psychocounsel.storage.weight_files import refuse_gguf
from tests.support.in_process import run_here

# Command line, with GGUF for the path, and the key named in the answer.
_COMMANDS = {
    "train model.path=GGUF": "model.path=",
    "train algo=ppo reward.path=GGUF": "reward.path=",
    "prepare model.path=GGUF": "model.path=",
    "evaluate reward.path=GGUF": "reward.path=",
    "evaluate compare=[GGUF]": "compare[0].path=",
    "evaluate evaluation=winrate model.path=GGUF against=[builtin:tiny]": "model.path=",
    "evaluate evaluation=winrate model.path=builtin:tiny against=[GGUF]": "against.path=",
    "evaluate evaluation=winrate model.path=builtin:tiny_dpo against=[builtin:tiny] judge=vllm judge.model=GGUF": "judge.model=",
    "evaluate evaluation=winrate model.path=builtin:tiny_dpo against=[builtin:tiny] judge=reward"
    " 'judge.reward={use: local, path: GGUF}'": "judge.reward.path=",
    "evaluate evaluation=session model.path=builtin:tiny against=[] client=transformers client.model=GGUF": "client.model=",
    "annotate speeches=sample annotator=rules writers=transformers writers.model=GGUF": "writers.model=",
    "chat model.path=GGUF": "model.path=",
    "chat reward.path=GGUF": "reward.path=",
    "serve model.path=GGUF": "model.path=",
    "export GGUF": "",
}


@pytest.mark.parametrize("command", _COMMANDS)
def test_every_command_says_the_same_of_a_gguf_file_and_of_its_folder(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_environment: None
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "small.Q4_1.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for path, words in ((folder / "small.Q4_1.gguf", "is a GGUF file"), (folder, "holds only a GGUF file")):
        answer = run_here(command.replace("GGUF", str(path)))
        assert answer.code == USER_ERROR, answer
        start = f"error: {_COMMANDS[command]}{path}: {words}, which cannot be used here: give the Hugging Face model"
        assert answer.stderr.startswith(start) and answer.stderr.endswith("NEW_FOLDER (docs/models.md#gguf)\n"), (
            answer.stderr
        )
    assert not list((tmp_path / "here").iterdir())


def test_a_model_folder_that_holds_a_gguf_file_as_well_is_a_model(tmp_path: Path) -> None:
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    (tmp_path / "config.json").write_text("{}")
    refuse_gguf(str(tmp_path), "model.path")
