"""Messages never quote confidential data: neither columns of a table without a header nor words of libraries or servers."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.data.selection import load_split
from psychocounsel.data.tokenise import ChatFormat, tokenise
from psychocounsel.errors import UserError, hide_words, print_failure, words
from psychocounsel.remote.client import Client
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.run import Run
from psychocounsel.settings.messages import one_line
from tests.data.test_tokenise import MISTRAL, example, tokenizer
from tests.support.answering import Reply, no_proxy, serving
from tests.support.composed import check, compose

__all__ = ["no_proxy"]
SECRET = "zugzwangerl"


@pytest.fixture(params=[True, False], ids=["confidential", "open"])
def hidden(request: pytest.FixtureRequest) -> bool:
    hide_words(request.param)
    return bool(request.param)


def said_of(work: Any) -> str:
    with pytest.raises(UserError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_table_without_a_header_shows_no_text(hidden: bool, tmp_path: Path) -> None:
    rows = [{f"I feel {SECRET}": "Go on.", "Why me?": "Stop."}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = check(compose([f"data.path={tmp_path}/rows.jsonl"])).data
    said = said_of(lambda: load_split(data, print))
    assert said.startswith("rows.jsonl line 1: needs ") and (SECRET in said) != hidden


def test_a_template_that_quotes_is_not_quoted(hidden: bool) -> None:
    quoting = MISTRAL.replace("'System role not supported'", "'No system role: ' + m['content']")
    chat = ChatFormat(tokenizer(quoting), {}, "org/model", f"Be {SECRET}.")
    said = said_of(lambda: tokenise([example("Hm.", "No.")], chat, "pairs", 512))
    assert said.startswith("rows.jsonl row 1: org/model: its chat template refuses") and (SECRET in said) != hidden


def test_a_servers_words_are_not_shown(hidden: bool) -> None:
    with serving(lambda payload, number: Reply(422, json.dumps({"detail": f"bad: {SECRET}"}).encode())) as server:
        client = Client([server.address], "reward", retries=0)
        said = said_of(lambda: list(client.answers("/score", [{"query": [SECRET]}], lambda answer, payload: answer)))
    assert said.startswith(f"reward: {server.address}/score refuses: status 422") and (SECRET in said) != hidden


def test_tracebacks_show_places_and_no_words(hidden: bool, tmp_path: Path) -> None:
    def fail() -> None:
        try:
            raise KeyError(f"{SECRET} inside")
        except KeyError as error:
            raise ValueError(f"cannot convert {SECRET}") from error

    with pytest.raises(ValueError, match="cannot convert") as caught, Run.open(tmp_path, check(compose([]))):
        fail()
    printed = io.StringIO()
    print_failure(caught.value, printed)
    for text in (printed.getvalue(), RunDir(tmp_path).attempt(1).log(0).read_text()):
        assert "KeyError" in text and "ValueError" in text and "in fail\n" in text
        assert ("cannot convert zug" in text) != hidden and ("zugzwangerl inside" in text) != hidden
    assert (SECRET in one_line(caught.value, [])) != hidden
    assert "not shown: data.confidential=true" in words(SECRET) or not hidden
