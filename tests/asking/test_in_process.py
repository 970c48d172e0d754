"""Models in this process: the shipped model in transformers, and a vLLM engine compared with vLLM's own server."""

import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from transformers import DynamicCache

from psychocounsel.annotation.steps import COURSE
from psychocounsel.asking.answers import answer_key
from psychocounsel.asking.in_process import BatchAnswerer, InProcess, Transformers, _cached_tokens
from psychocounsel.asking.language_model import TEXT, Answer, Ask, LanguageModel, open_model
from psychocounsel.errors import UserError
from psychocounsel.evaluation.judging.pairs import Judging, PairPrompt, ReplyPair, read_verdict
from psychocounsel.model.cpu import free_bytes
from psychocounsel.remote.server_access import free_port
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.steps.course import Course
from psychocounsel.steps.plan import planned_steps, step_settings
from psychocounsel.storage.files import write_json
from tests.support.answering import no_proxy
from tests.support.asking import asked, chat, question
from tests.support.harness import ROOT, TINY, small_lm
from tests.support.judged import reply, speech
from tests.support.started import started

# Models in this process: the shipped model in transformers, and a vLLM engine compared with vLLM's own server.

__all__ = ["no_proxy"]


def ask(text: str, seed: int = 0, schema: Any = None) -> Ask:
    return Ask("s", ({"role": "user", "content": text},), seed, "reply 0", schema)


def answers(model: LanguageModel, asks: list[Ask]) -> list[Answer]:
    opened = open_model(model, "writers")
    try:
        futures = [opened.submit(each, each.seed) for each in asks]
        return [future.result(timeout=300) for future in futures]
    finally:
        opened.close()


QUESTIONS = [
    ask(f"I cannot sleep, {reason}.", seed) for seed, reason in enumerate(("why", "since my brother left", "ever"))
]


def test_a_batch_has_room_in_the_free_memory() -> None:
    """A judge's prompt has thousands of tokens, so the default `batch_size` of 64 prompts would exceed the memory."""
    lm = small_lm()
    cache = DynamicCache(config=lm.config)
    lm(input_ids=torch.zeros(1, 50, dtype=torch.long), past_key_values=cache)
    a_token = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / 50
    room = _cached_tokens(lm, torch.device("cpu"))
    assert room * a_token == pytest.approx(free_bytes() / 3, rel=0.2)
    assert 1e8 < free_bytes() < 1e14
    del lm.config.num_attention_heads
    assert _cached_tokens(lm, torch.device("cpu")) == math.inf


def greedy(questions: list[Ask], tokens: int) -> list[str]:
    """The answers of transformers' own `generate`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, lm = (
        AutoTokenizer.from_pretrained(TINY),
        AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval(),
    )
    found = []
    for each in questions:
        text = tokenizer.apply_chat_template([*each.messages], tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            made = lm.generate(ids, max_new_tokens=tokens, do_sample=False)
        found.append(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
    return found


def test_greedy_answers_are_those_of_transformers() -> None:
    model = Transformers(name="tiny", model="builtin:tiny", temperature=0.0, max_tokens=24)
    found = answers(model, QUESTIONS)
    assert [answer.text for answer in found] == greedy(QUESTIONS, 24)
    for answer in found:
        assert answer.model == "builtin:tiny" and answer.prompt_tokens and answer.completion_tokens
        assert (answer.outcome == "cut") == (answer.completion_tokens == 24)


def test_a_seed_decides_whatever_else_is_in_the_batch(tmp_path: Path) -> None:
    model = Transformers(name="tiny", model="builtin:tiny", max_tokens=16, batch_size=8)
    together = answers(model, [*QUESTIONS, *(ask(f"Hello {number}.", number) for number in range(5))])
    assert answers(model, QUESTIONS[::-1])[::-1] == together[:3]
    assert answers(model, [ask("I cannot sleep, why.", 9)])[0].text != together[0].text
    found = asked(model, [Ask(f"{n}", ask(f"Hello {n}.").messages, n, "reply 0") for n in range(5)], tmp_path)
    assert [found[f"{number}"].answer for number in range(5)] == together[3:]


def test_what_is_too_long_fails_alone_and_a_wrong_model_is_named() -> None:
    model = Transformers(name="tiny", model="builtin:tiny", max_tokens=8, max_length=64)
    found = answers(model, [ask("Hello."), ask("word " * 100)])
    assert found[1].outcome == "failed" and found[0].outcome in ("text", "cut")
    with pytest.raises(UserError, match=r"writers\.model=/no/such/model: its tokenizer cannot be loaded"):
        open_model(Transformers(name="x", model="/no/such/model"), "writers")


def config_of(model: LanguageModel) -> DictConfig:
    """The part of an `annotate` configuration that the settings of a step depend on."""
    target = f"{type(model).__module__}.{type(model).__name__}"
    writers = {"_target_": target, **asdict(model)}
    return OmegaConf.create({"writers": writers, "replies": {}, "crisis_to_third_parties": True, "steps": ["replies"]})


def test_other_weights_in_the_same_folder_are_another_model(tmp_path: Path) -> None:
    """New weights make the step due and its answers are asked for again; if the folder is gone, a finished step stays done."""
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    files = AnnotationDir(tmp_path / "out")
    files.steps.mkdir(parents=True)
    files.replies.touch()
    reads = {"replies": ("writers",)}
    course = Course(("replies",), {}, reads, output=lambda files, step: files.replies, models=COURSE.models)

    def model() -> Transformers:
        return Transformers(name="mine", model=str(folder), temperature=0.0, max_tokens=4)

    def is_due() -> bool:
        (step,) = planned_steps(course, config_of(model()), files)
        return step.due

    (first,) = planned_steps(course, config_of(model()), files)
    record = {"fingerprint": first.fingerprint, "settings": first.settings, "figures": {}}
    write_json(files.step("replies"), record)
    assert first.due and not is_due()
    before = asked(model(), [QUESTIONS[0]], tmp_path / "answers")["s"].answer
    key = answer_key(model(), QUESTIONS[0], 0)

    (folder / "README.md").write_text("Only words about the model.")
    assert answer_key(model(), QUESTIONS[0], 0) == key and not is_due()
    weights = load_file(folder / "model.safetensors")
    save_file({name: -each for name, each in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    assert answer_key(model(), QUESTIONS[0], 0) != key and is_due()
    assert asked(model(), [QUESTIONS[0]], tmp_path / "answers")["s"].answer != before
    shutil.rmtree(folder)
    assert not is_due()


def test_a_template_is_known_by_what_it_holds(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jinja", tmp_path / "second.jinja"
    first.write_text("{{ messages }}")
    second.write_text("{{ messages }}")

    def made_from(file: Path) -> tuple[str, Any]:
        model = Transformers(name="tiny", model="builtin:tiny", chat_template=str(file))
        return model.digest, step_settings(COURSE, config_of(model), "replies")

    before = made_from(first)
    assert made_from(second) == before
    first.write_text("{{ messages }}!")
    digest, settings = made_from(first)
    assert digest != before[0] and settings != before[1]


SCHEMA = {
    "type": "object",
    "properties": {"rating": {"type": "integer", "enum": [1, 2, 3, 4, 5]}},
    "required": ["rating"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def vllm_server(vllm: None) -> Iterator[str]:
    """vLLM's own OpenAI-compatible server on CPU, with the shipped model."""
    port = free_port()
    flags = (
        f"--port {port} --host 127.0.0.1 --served-model-name tiny --enforce-eager --max-model-len 512 --dtype float32"
    )
    more = ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    more += ["--max-num-seqs", "16", "--generation-config", "vllm", "--kv-cache-memory-bytes", str(1 << 28)]
    script = "from tests.support.vllm_chat import main; main()"
    command = [sys.executable, "-c", script, "serve", str(TINY), *flags.split(), *more]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "VLLM_LOGGING_LEVEL": "WARNING", "TORCHDYNAMO_DISABLE": "1"}
    address = f"http://127.0.0.1:{port}"
    with started(command, f"{address}/health", lambda answer: answer.is_success, cwd=ROOT, env=environment):
        yield f"{address}/v1"


@pytest.mark.slow
def test_a_real_vllm_server_answers_as_transformers_does_and_keeps_to_a_schema(
    vllm_server: str, tmp_path: Path
) -> None:
    model = chat(vllm_server, "tiny", temperature=0.0, max_tokens=24, timeout_seconds=60.0)
    asks = [Ask(str(number), each.messages, 0, "reply 0") for number, each in enumerate(QUESTIONS)]
    found = asked(model, asks, tmp_path)
    assert [found[str(number)].answer.text for number in range(3)] == greedy(QUESTIONS, 24)
    assert all(outcome.answer.model == "tiny" and outcome.answer.prompt_tokens for outcome in found.values())
    rated = Ask("rated", ask("Rate this.").messages, 3, "vote 0", SCHEMA)
    warm = chat(vllm_server, "tiny", max_tokens=64, timeout_seconds=60.0)
    outcome = asked(warm, [rated], tmp_path, read=json.loads)["rated"]
    assert outcome.value["rating"] in (1, 2, 3, 4, 5)
    long = Ask("long", ask("word " * 2000).messages, 0, "reply 0")
    assert asked(warm, [rated, long], tmp_path)["long"].outcome == "failed"
    with pytest.raises(UserError, match="maximum context length.*no prompt fits: choose a longer context"):
        asked(warm, [long], tmp_path)
    with pytest.raises(UserError, match=r"writers: .*404 Not Found"):
        asked(chat(vllm_server, "another", timeout_seconds=60.0), [rated], tmp_path)


@pytest.mark.slow
def test_a_real_vllm_server_is_held_to_the_form_of_a_verdict(vllm_server: str, tmp_path: Path) -> None:
    """The rubric does not fit the shipped model's window; the conversation and the schema are those of a judge."""
    judge = chat(vllm_server, "tiny", temperature=0.0, max_tokens=64, timeout_seconds=60.0)
    prompt, about = PairPrompt("Compare.", "v"), speech("s")
    pair = ReplyPair(
        {**about, "messages": json.loads(about["messages"])}, reply("s", "a", "One."), reply("s", "b", "Two.")
    )
    for call in Judging([judge], prompt, 0, False).calls([pair]):
        assert call.ask and call.ask.schema
        outcome = asked(judge, [call.ask], tmp_path, read=read_verdict, retries=0)["s"]
        first = next(iter(call.ask.schema["properties"]))
        assert outcome.answer.text.startswith(f'{{"{first}":{{"reason":"') or outcome.answer.text.startswith(
            f'{{"{first}": {{"reason": "'
        )
        # The shipped model never ends its first reason, so its answer is cut and is not a verdict.
        assert (outcome.outcome, outcome.value, outcome.answer.model) == ("cut", None, "tiny")


_IN_PROCESS = """
import json, sys
from tests.asking.test_in_process import QUESTIONS, SCHEMA, InProcess, answers, ask
common = {"name": "tiny", "model": "builtin:tiny", "max_length": 512, "cpu_cache_gb": 0.25, "max_tokens": 24}
model = InProcess(**common, temperature=0.0)
made = answers(model, [*QUESTIONS, ask("Rate this.", 0, SCHEMA), ask("word " * 2000)])
made += answers(model, QUESTIONS)  # with a second engine, after the first was closed
print("\\n" + json.dumps([[answer.outcome, answer.text] for answer in made]), flush=True)
import os
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("vllm")
def test_an_engine_in_this_process_answers_as_transformers_does() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _IN_PROCESS], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(done.stdout.splitlines()[-1])
    assert [text for _, text in made[:3]] == greedy(QUESTIONS, 24)
    assert json.loads(made[3][1])["rating"] in (1, 2, 3, 4, 5)
    assert made[4] == ["failed", ""]
    assert made[5:] == made[:3]
    assert InProcess(name="x", model="m").identity() != InProcess(name="x", model="m", sends_schema=False).identity()


# `BatchAnswerer` computes Asks in batches, and ends after the batch that it computes.

SIZE = 3


class Waiting(BatchAnswerer):
    """Answers a batch when `go` is set."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        super().__init__(SIZE)

    def answer(self, asks: Sequence[Ask], seeds: Sequence[int]) -> list[Answer]:
        self.began.set()
        assert self.go.wait(20)
        return [Answer(TEXT, ask.speech) for ask in asks]


def test_closing_ends_after_the_current_batch() -> None:
    """Otherwise Ctrl-C would wait for the next batch as well, which may take minutes."""
    model = Waiting()
    futures = [model.submit(question(number), 0) for number in range(2 * SIZE)]
    assert model.began.wait(20)
    closing = threading.Thread(target=model.close)
    closing.start()
    closing.join(0.5)  # by then it waits for the batch
    model.go.set()
    closing.join(20)
    assert [future.result(0).text for future in futures[:SIZE]] == [question(number).speech for number in range(SIZE)]
    assert all(future.cancelled() for future in futures[SIZE:])
