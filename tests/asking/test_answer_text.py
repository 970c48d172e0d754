"""Thoughts of reasoning models are no part of a reply: from servers, from models in this process, and before ratings."""

from pathlib import Path
from typing import Any

import pytest

from psychocounsel.asking.answer_text import without_thoughts
from psychocounsel.asking.chat_server import read_completion
from psychocounsel.asking.in_process import Transformers
from psychocounsel.asking.language_model import Answer, Ask, open_model
from tests.support.harness import TINY


def completion(text: str, reason: str = "stop") -> Any:
    return {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("That sounds lonely.", "That sounds lonely."),
        ("<think>She is sad.\n\nShort.</think>\n\nThat sounds lonely.", "That sounds lonely."),
        (" \n<think>\n\n</think>\n\nThat sounds lonely.", "That sounds lonely."),
        ("<Thinking>She is sad.</thinking>That sounds lonely.", "That sounds lonely."),
        ("She is sad. Be short.\n</think>\n\nThat sounds lonely.", "That sounds lonely."),
        ("<think>She is sad, and perhaps", ""),
        ("<think>She is sad.</think>\n", ""),
        ("I think <think> is a tag that you type.", "I think <think> is a tag that you type."),
        ('{"empathy": {"quote": "you wrote </think> twice"}}', '{"empathy": {"quote": "you wrote </think> twice"}}'),
    ],
)
def test_an_answer_begins_after_its_thoughts(text: str, left: str) -> None:
    assert without_thoughts(text) == left
    assert read_completion(completion(text), {}) == Answer("text", left)


def test_cut_thoughts_are_cut_without_a_text() -> None:
    assert read_completion(completion("<think>She is sad, and perhaps", "length"), {}) == Answer("cut")
    assert without_thoughts("She is sad, and perhaps", "user: I cry.\nassistant: <think>\n") == ""
    assert without_thoughts("She is sad.</think> I hear you.", "assistant: <think>\n") == "I hear you."
    assert without_thoughts("I hear you.", "assistant: <think>\n\n</think>\n\n") == "I hear you."


def test_a_model_in_this_process_whose_template_opens_thoughts_gives_no_thought_as_a_reply(tmp_path: Path) -> None:
    own = (TINY / "chat_template.jinja").read_text()
    replies = own.replace("'|>' +", "'|>' + ('<think>\n' if message['role'] == 'assistant' else '') +")
    (tmp_path / "thinking.jinja").write_text(replies.replace("'<|assistant|>'", "'<|assistant|><think>\n'"))
    ask = Ask("s", ({"role": "user", "content": "I cannot sleep."},), 0, "reply 0")
    for template, thinks in ((None, False), (str(tmp_path / "thinking.jinja"), True)):
        model = Transformers(name="tiny", model="builtin:tiny", chat_template=template, temperature=0.0, max_tokens=8)
        opened = open_model(model, "writers")
        answer = opened.submit(ask, 0).result(timeout=120)
        opened.close()
        assert answer.completion_tokens and bool(answer.text) != thinks
