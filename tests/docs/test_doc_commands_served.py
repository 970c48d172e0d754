"""The pages' commands that ask a language model run against a server on the loopback interface.

The server answers every request with a valid answer: if the request holds a JSON schema, with an object of that schema.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.test_doc_commands import shown
from tests.support.annotating import speeches
from tests.support.answering import Server, serving
from tests.support.doc_blocks import Command
from tests.support.doc_reader import EXIT_CODES, SHORT, completed, make_files
from tests.support.harness import cli, write_jsonl
from tests.support.scripted import completion, number_of, reply_text

pytestmark = pytest.mark.slow

_ASKS = re.compile(r"(writers|annotator|(?:reward\.)?judge|client)(?:=local_vllm|=openai|\.temperature)")
# Other tests give these commands the files of other projects, or a reward model of 8B parameters.
_NEEDS_MORE = re.compile(r"vera_mh|transcripts|reward=psychocounsel_8b")


def _served() -> Iterator[Command]:
    for each in shown():
        text = " ".join(each.arguments)
        if each.name in ("evaluate", "annotate", "train") and _ASKS.search(text) and not _NEEDS_MORE.search(text):
            yield each


def _valid(schema: dict[str, Any], number: int) -> Any:
    """Return a value that the schema allows; `number` selects one of several."""
    if "anyOf" in schema:
        return _valid(schema["anyOf"][0], number)
    if "enum" in schema:
        return schema["enum"][number % len(schema["enum"])]
    if schema["type"] == "object":
        names = enumerate(schema["properties"].items())
        return {name: _valid(value, number >> shift) for shift, (name, value) in names}
    return {"string": "absent", "boolean": True}[schema["type"]]


def _answer(payload: Any, number: int) -> Any:
    wanted = payload.get("response_format")
    if wanted is None:
        return completion(reply_text(payload), payload)
    return completion(json.dumps(_valid(wanted["json_schema"]["schema"], number_of(payload))), payload)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(_answer) as running:
        yield running


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a policy, preferences and the files that the commands name."""
    folder = tmp_path_factory.mktemp("reader")
    make_files(folder)
    speeches(folder / "my_speeches.jsonl", 4)
    (folder / "criteria.yaml").write_text("- It names a feeling.\n- {criterion: It gives an order., points: -1}\n")
    write_jsonl(folder / "prompts.jsonl", [{"prompt": f"I have worried for {weeks} weeks."} for weeks in range(2, 6)])
    cli("train", *SHORT["train"], "run_dir=runs/dpo", cwd=folder)
    cli("annotate", "speeches=my_speeches.jsonl", "speeches.license=cc-by-4.0", "out=my_preferences", cwd=folder)
    return folder


@pytest.mark.parametrize("command", _served(), ids=lambda each: f"{each.page}:{each.line}".replace("/", "."))
def test_a_command_that_asks_a_model_runs(command: Command, server: Server, given: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(given, folder, symlinks=True)
    before = len(server.asked)
    roles = dict.fromkeys(found[1] for found in _ASKS.finditer(" ".join(command.arguments)))
    typed = ["limit=1" if text.startswith("limit=") else text for text in completed(command)]
    typed += [f"{role}.addresses=[{server.address}/v1]" for role in roles]
    if "scores.votes=3" in typed:  # the page's command before it has chosen the annotator
        typed += ["annotator=local_vllm", "annotator.model=rater"]
    environment = {"NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": "key"}
    done = cli(command.name, *typed, cwd=folder, check_code=None, **environment)
    allowed = next((codes for part, codes in EXIT_CODES.items() if part in typed), (0,))
    assert done.returncode in allowed, f"{command}\n{typed}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    assert len(server.asked) > before, "the server was not asked"
    assert "Traceback" not in done.stderr
    shutil.rmtree(folder)
