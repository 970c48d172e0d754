"""Language models that run in this process, with transformers or with a vLLM engine."""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import queue
import re
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.asking.answer_text import shown_so_far
from psychocounsel.asking.language_model import (
    CUT,
    FAILED,
    LONG_AT_FIRST,
    TEXT,
    TOO_LONG,
    Answer,
    Answerer,
    Ask,
    LanguageModel,
    Show,
)
from psychocounsel.errors import UserError
from psychocounsel.model.shape import Shape
from psychocounsel.rundir.trained_runs import trained_dtype
from psychocounsel.settings.schema import option
from psychocounsel.storage.files import expanded, folder_of, with_noun
from psychocounsel.storage.hashes import content_id
from psychocounsel.storage.weight_files import refuse_gguf

if TYPE_CHECKING:
    from psychocounsel.data.group import Group
    from psychocounsel.data.tokenise import ChatFormat

# Asks in batches, in a thread of their own

_FILLING = 0.2  # seconds to wait for the next Ask before an incomplete batch starts

_Job = tuple[Ask, int, Future[Answer]]


class BatchAnswerer(Answerer):
    """Base class of answerers that compute in this process. A subclass must define `answer`.

    `answer` receives up to `batch_size` Asks at once. Twice as many may be submitted, so that the next batch is ready when one
    ends.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.slots = batch_size, 2 * batch_size
        self._closing = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    @abstractmethod
    def answer(self, asks: Sequence[Ask], seeds: Sequence[int]) -> list[Answer]:
        """Return the answers to `asks`, in order. Each answer depends on its own seed, not on the other Asks in the batch."""

    def submit(self, ask: Ask, seed: int) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._jobs.put((ask, seed, future))
        return future

    def close(self) -> None:
        """Stop after the current batch; the Asks that wait for the next one are cancelled."""
        self._closing = True
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            try:
                answers = self.answer([ask for ask, _, _ in batch], [seed for _, seed, _ in batch])
                for (_, _, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)
            except BaseException as error:  # raised in the threads that wait for the answers
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _next(self) -> list[_Job] | None:
        """Wait for Asks and return the next batch, or None after `close`."""
        batch: list[_Job] = []
        while self._closing or len(batch) < self.batch_size:  # when closing, until the mark None, which is the last
            try:
                job = self._jobs.get(block=not batch, timeout=_FILLING if batch else None)
            except queue.Empty:
                break
            if job is None:
                for _, _, future in batch:
                    future.cancel()
                return None
            if not job[2].cancelled():
                batch.append(job)
        return batch


# Content hash of a model: new weights under the same path count as another model

_READ = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")  # weights, configuration, tokenizer, template


def content_of(model: str | None) -> str | None:
    """Return `sha256:...` of a model's files in a local folder or in the package, or None for any other model.

    The user's cache keeps the hash by size and time of the files, so large weights are read only once.

    Raises:
        UserError: if a file cannot be read.
    """
    if not model:
        return None
    folder = folder_of(model)
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.iterdir() if file.suffix in _READ and file.is_file())
    cache = expanded(os.environ.get("PSYCHOCOUNSEL_CACHE") or "~/.cache/psychocounsel")
    try:
        return content_id(folder, files, str(cache))
    except OSError as error:
        raise UserError(f"{folder}: a file of this model cannot be read; check its permissions") from error


# Models in transformers, and in a vLLM engine

_LONGEST = 4096  # tokens of prompt and answer, for a model whose configuration gives no maximum


def _content(file: str | None) -> str | None:
    """Return the sha256 of a file's contents (hexadecimal), or the name itself if the file does not exist."""
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file and Path(file).is_file() else file


@dataclass(kw_only=True)
class _Local(LanguageModel):
    """Base of models in this process. `model` is a hub id, a local folder, or builtin:tiny."""

    revision: str | None = None
    dtype: str = option("auto", choices=("auto", "fp32", "bf16"))
    chat_template: str | None = None
    template_args: dict[str, Any] = option({})
    max_length: int | None = option(None, at_least=16)
    batch_size: int = option(64, at_least=1)

    def identity(self) -> dict[str, Any]:
        """Return the base identity with revision, dtype, prompt settings, and hashes of local weights and template."""
        more: dict[str, Any] = {"revision": self.revision, "dtype": self.dtype, "template_args": self.template_args}
        more |= {"chat_template": _content(self.chat_template), "max_length": self.max_length}
        content = self.content()
        return super().identity() | more | ({"content": content} if content else {})

    def content(self) -> str | None:
        """Return a hash of the local files, or None for a model of the hub."""
        return content_of(self.model)

    def check(self, key: str) -> None:
        """Raise UserError if `model` is not set, or names a GGUF file."""
        if not self.model:
            raise UserError(f"{key}.model is not set: give a folder, a model of the hub, or builtin:tiny")
        refuse_gguf(self.model, f"{key}.model")

    def section(self) -> DictConfig:
        """Return the settings in the form of the section `model` of a training configuration."""
        return OmegaConf.create(
            {
                "path": self.model,
                "revision": self.revision,
                "dtype": self.dtype,
                "chat_template": self.chat_template,
                "template_args": self.template_args,
                "gradient_checkpointing": False,
            }
        )


def settle_dtypes(models: Sequence[LanguageModel]) -> None:
    """Set each `dtype: auto` to the format in which the model's run trained it, or else to that of the first model.

    The first model is the one that is evaluated. The others share its format, so that differences to them measure the
    models. `auto` remains if the format is unknown.
    """
    local = [model for model in models if isinstance(model, _Local)]
    for model in local:
        if model.dtype == "auto":
            model.dtype = trained_dtype(model.model) or (local[0].dtype if models[0] is local[0] else "auto")


@dataclass(kw_only=True)
class Transformers(_Local):
    """Any causal language model, run by transformers in batches of `batch_size`. Fast enough only for small models."""

    def open(self, key: str) -> Answerer:
        self.check(key)
        return _Writing(self, key)


@dataclass(kw_only=True)
class InProcess(_Local):
    """A vLLM engine in this process. It gets `batch_size` Asks at once and runs up to `max_sequences` in parallel."""

    batch_size: int = option(512, at_least=1)
    tensor_parallel: int = option(1, at_least=1)
    max_sequences: int = option(256, at_least=1)
    gpu_memory: float = option(0.9, above=0, below=1)
    cpu_cache_gb: float = option(1.0, above=0)
    sends_schema: bool = True

    def open(self, key: str) -> Answerer:
        self.check(key)
        return _Engine(self, key)

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"sends_schema": self.sends_schema}

    def check(self, key: str) -> None:
        """Raise UserError as for any local model, and if vLLM is not installed."""
        super().check(key)
        if importlib.util.find_spec("vllm") is None:
            raise UserError(f"{key}: vLLM is not installed; see docs/online.md#vllm, or use an endpoint")


class _LocalAnswerer(BatchAnswerer):
    """Renders and encodes Asks with the model's chat template. An Ask that leaves no room for an answer fails."""

    chat: ChatFormat
    positions: int

    def __init__(self, settings: _Local, key: str) -> None:
        self.settings, self.key = settings, key
        self._too_long, self._shortest = 0, math.inf
        super().__init__(settings.batch_size)

    def answer(self, asks: Sequence[Ask], seeds: Sequence[int]) -> list[Answer]:
        """Answer those Asks that fit the model; the others fail.

        Raises:
            UserError: if the first prompts of the run are all too long.
        """
        from psychocounsel.data.group import Group

        rendered = [self.chat.render([*ask.messages]) for ask in asks]
        prompts = self.chat.encode_prompts(rendered)
        fit = [place for place, ids in enumerate(prompts) if len(ids) < self.positions]
        answers = [Answer(FAILED)] * len(asks)
        self.fitted = self.fitted or bool(fit)
        if not self.fitted:
            self._too_long, self._shortest = self._too_long + len(asks), min(self._shortest, *map(len, prompts))
            self.misfit = UserError(
                f"{self.key}.model={self.settings.model}: reads {self.positions:,} tokens, too few for "
                f"{with_noun(self._too_long, 'prompt')} of {self._shortest:,} or more; choose a model with a longer context"
            )
            if self._too_long >= LONG_AT_FIRST:
                raise self.misfit
        if fit:
            groups = [Group(str(place), prompts[place]) for place in fit]
            written = self.write(groups, [asks[place] for place in fit], [seeds[place] for place in fit])
            for place, (text, count, ended) in zip(fit, written, strict=True):
                outcome, visible = TEXT if ended else CUT, asks[place].without_thoughts(text, rendered[place].text)
                answers[place] = Answer(outcome, visible, self.settings.model, len(prompts[place]), count)
        return answers

    def has_room(self, ask: Ask) -> bool:
        """Return True if enough positions remain for an answer: `max_tokens`, or a quarter of the model's length if less."""
        (prompt,) = self.chat.encode_prompts([self.chat.render([*ask.messages])])
        return self.positions - len(prompt) >= min(self.settings.max_tokens, self.positions // 4)

    @abstractmethod
    def write(self, groups: Sequence[Group], asks: Sequence[Ask], seeds: Sequence[int]) -> list[tuple[str, int, bool]]:
        """Return one answer for each prompt: its text, its number of tokens, and True if it ended by itself."""


class _Writing(_LocalAnswerer):
    def __init__(self, settings: Transformers, key: str) -> None:
        import torch

        from psychocounsel.model.load import load_causal_lm, model_dtype
        from psychocounsel.model.packed import Policy
        from psychocounsel.model.quiet import quiet_libraries
        from psychocounsel.model.tokenizer import load_chat_format
        from psychocounsel.rollout.base import Sampling
        from psychocounsel.rollout.hf import HFRollout

        quiet_libraries()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        section = settings.section()
        with _named(key):
            tokenizer, self.chat = load_chat_format(section, key)
            lm = load_causal_lm(section, model_dtype(section, device), None, device.type)
        longest = getattr(lm.config.get_text_config(), "max_position_embeddings", None)
        self.positions = int(settings.max_length or longest or _LONGEST)
        policy = Policy(lm, str(settings.model), device=device.type)
        room = _cached_tokens(lm, device)
        self.rollout = HFRollout(policy, tokenizer, self.chat.ends(), settings.batch_size, cached_tokens=room)
        drawn = settings.temperature, settings.max_tokens, self.positions
        self.sampling = Sampling(1, *drawn, seed=0, top_p=settings.top_p)
        self._alone = threading.Lock()  # only one thread at a time may generate
        super().__init__(settings, key)

    def stream(self, ask: Ask, seed: int, show: Show) -> Answer:
        """Stream the answer token by token. It equals the answer of `submit` with the same seed."""
        from psychocounsel.data.group import Group

        rendered = self.chat.render([*ask.messages])
        (prompt,) = self.chat.encode_prompts([rendered])
        if len(prompt) >= self.positions:
            return Answer(TOO_LONG, model=self.settings.model)

        def watch(ids: list[int]) -> bool:
            text = self.rollout.tokenizer.decode(ids, skip_special_tokens=True)
            return show(shown_so_far(text.rstrip("\ufffd"), rendered.text))  # the last character may be incomplete

        with self._alone:
            (group,) = self.rollout.generate([Group("", prompt)], self.sampling, [seed], watch)
        reply = group.completions[0]
        visible = ask.without_thoughts(reply.text, rendered.text)
        outcome = TEXT if reply.finish_reason == "stop" else CUT
        return Answer(outcome, visible, self.settings.model, len(prompt), len(reply.ids))

    def write(self, groups: Sequence[Group], asks: Sequence[Ask], seeds: Sequence[int]) -> list[tuple[str, int, bool]]:
        with self._alone:
            made = self.rollout.generate(groups, self.sampling, seeds)
        replies = [group.completions[0] for group in made]
        return [(reply.text, len(reply.ids), reply.finish_reason == "stop") for reply in replies]


def _cached_tokens(lm: Any, device: Any) -> float:
    """Return how many tokens' keys and values fit in a third of the free memory; infinity for an unknown architecture.

    A prompt with a rubric has thousands of tokens, so that `batch_size` of them may be too many.
    """
    import torch

    from psychocounsel.model.cpu import free_bytes

    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()
    try:
        return free / 3 / (Shape.of(lm.config.to_dict()).cached() * lm.dtype.itemsize)
    except (KeyError, TypeError):
        return math.inf


class _Engine(_LocalAnswerer):
    def __init__(self, settings: InProcess, key: str) -> None:
        from psychocounsel.rollout.vllm_engine import prepare_environment

        prepare_environment()
        import torch

        from psychocounsel.model.gpu import require_compiler
        from psychocounsel.model.load import model_dtype
        from psychocounsel.model.quiet import quiet_libraries
        from psychocounsel.model.tokenizer import load_chat_format
        from psychocounsel.rollout.vllm_engine import prepare_cpu, quiet_start

        quiet_libraries()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cuda":
            require_compiler(key, "an endpoint")
        section = settings.section()
        with _named(key):
            _, self.chat = load_chat_format(section, key)
        if device.type == "cpu":
            # Otherwise vLLM starts another process only to bind threads.
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        arguments = self._arguments(settings, str(model_dtype(section, device)).removeprefix("torch."), device)
        with quiet_start(key):
            prepare_cpu(arguments)
            from vllm import LLM

            self.llm = LLM(**arguments)
        self.positions = int(self.llm.llm_engine.model_config.max_model_len)
        super().__init__(replace(settings), key)

    def write(self, groups: Sequence[Group], asks: Sequence[Ask], seeds: Sequence[int]) -> list[tuple[str, int, bool]]:
        inputs: Any = [{"prompt_token_ids": group.prompt_ids.tolist()} for group in groups]
        drawn = [self._params(group, ask, seed) for group, ask, seed in zip(groups, asks, seeds, strict=True)]
        replies = [output.outputs[0] for output in self.llm.generate(inputs, drawn, use_tqdm=False)]
        return [(reply.text, len(reply.token_ids), reply.finish_reason == "stop") for reply in replies]

    def close(self) -> None:
        """Stop the engine and free its memory, because the next step may start another one."""
        super().close()
        self.llm.llm_engine.engine_core.shutdown()

    def _params(self, group: Group, ask: Ask, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        settings: Any = self.settings
        schema = {**ask.schema} if ask.schema is not None and settings.sends_schema else None
        return SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            max_tokens=min(settings.max_tokens, self.positions - len(group.prompt_ids)),
            seed=seed % (1 << 31),
            stop_token_ids=self.chat.ends(),
            structured_outputs=StructuredOutputsParams(json=schema) if schema else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _arguments(self, settings: InProcess, dtype: str, device: Any) -> dict[str, Any]:
        from psychocounsel.model.tokenizer import resolve_path

        memory: dict[str, Any] = {"gpu_memory_utilization": settings.gpu_memory}
        if device.type == "cpu":
            memory = {"kv_cache_memory_bytes": int(settings.cpu_cache_gb * (1 << 30)), "enforce_eager": True}
            if settings.tensor_parallel == 1:
                memory["distributed_executor_backend"] = "uni"
        return memory | {
            "model": resolve_path(str(settings.model)),
            "revision": settings.revision,
            "dtype": dtype,
            "generation_config": "vllm",
            # Without `disable_any_whitespace` a model may write white space until `max_tokens`.
            "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
            "max_model_len": settings.max_length,
            "max_num_seqs": settings.max_sequences,
            "tensor_parallel_size": settings.tensor_parallel,
            "disable_log_stats": True,
        }


@contextmanager
def _named(key: str) -> Iterator[None]:
    """Rewrite errors about the key `path` so that they name the user's key, `model`."""
    try:
        yield
    except UserError as error:
        raise UserError(re.sub(r"(?<![\w/])[\w.\[\]]+\.path=", f"{key}.model=", str(error))) from error
