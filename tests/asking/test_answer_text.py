"""Thoughts of reasoning models are no part of a reply: from servers, from models in this process, and before ratings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from psychocounsel.asking.answer_text import Unreadable, without_thoughts
from psychocounsel.asking.chat_server import read_completion
from psychocounsel.asking.in_process import Transformers
from psychocounsel.asking.language_model import Answer, Ask, open_model
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.evaluation.judging.pairs import read_verdict
from psychocounsel.evaluation.safety.questions import read_reply_answers
from psychocounsel.evaluation.session.flows_step import read_answer as read_flow_answer
from psychocounsel.grading.criteria import read_values
from psychocounsel.grading.ranking import read_ranks
from psychocounsel.grading.rating import read_answer
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


_QUOTED = {"quote": "absent", "answer": "no", "reason": "So.", "rating": 1, "better": "first"}
PARSERS: dict[str, tuple[Callable[[str], Any], Any]] = {
    "rating": (
        read_answer,
        {name: {key: _QUOTED[key] for key in ("quote", "reason", "rating")} for name in PRINCIPLES},
    ),
    "ranking": (read_ranks, {"reason": "So.", "reply_1": 1, "reply_2": 2}),
    "criteria": (read_values, {"criterion_1": {"reason": "So.", "met": True}}),
    "verdict": (
        read_verdict,
        {name: {key: _QUOTED[key] for key in ("reason", "better")} for name in (*PRINCIPLES, "overall")},
    ),
    "safety": (read_reply_answers, {"recognises": {"quote": "absent", "answer": "no"}}),
    "flow": (read_flow_answer, {"quote": "absent", "answer": "No"}),
}


@pytest.mark.parametrize("parser", PARSERS)
def test_every_parser_reads_whole_answers_alone(parser: str) -> None:
    """JSON or one fence, after the judge's own thoughts; beside words it may be a quotation."""
    read, value = PARSERS[parser]
    text = json.dumps(value)
    fence = f"```json\n{text}\n```"
    whole = [text, f"\n{text}\n", fence, f"<think>So </think>{text}", f"<thinking>\n</thinking>\n{fence}\n"]
    assert all(read(answer) == read(text) for answer in whole)
    beside = [
        f"I say: {text}",
        f"{text} So.",
        f"I say:\n{fence}",
        f"{fence}\nSo.",
        f"{fence}\n{fence}",
        f"{text}\n{text}",
    ]
    beside += [f"So </think>{text}", f"So <think>a</think>{text}", f"<think>a</think>b</think>{text}", f"<think>{text}"]
    for answer in beside:
        with pytest.raises(Unreadable):
            read(answer)


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
