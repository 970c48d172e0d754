"""From Examples to Groups of token ids, through the model's chat template."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import numpy as np

from psychocounsel.data.group import Completion, Group
from psychocounsel.data.rows import Example, Message
from psychocounsel.errors import UserError

_FIXED_DATE = datetime(2024, 7, 26)


class ChatFormat:
    """Renders conversations with a tokenizer's chat template.

    Prompt, and prompt with reply, are rendered once each; the first must be a token prefix of the second. The date is
    fixed, or templates that write today's would give other tokens tomorrow.

    Raises:
        UserError: at construction if the tokenizer has no chat template; when rendering if the template breaks the
            prefix, doubles BOS, or leaves the reply without an end-of-turn token.
    """

    def __init__(self, tokenizer: Any, template_args: dict[str, Any], name: str) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"{name}: its tokenizer has no chat template; use an instruction-tuned model, "
                "or give model.chat_template=FILE.jinja"
            )
        self.tokenizer, self.name = tokenizer, name
        self.template_args = {"strftime_now": _FIXED_DATE.strftime, **template_args}
        self.bos = tokenizer.bos_token_id
        self.adds_bos = self.bos is not None and tokenizer("x")["input_ids"][:1] == [self.bos]
        added = tokenizer.added_tokens_decoder
        self.special = {index for index, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self.end_tokens: set[int] = set()

    def prompt(self, messages: Sequence[Message]) -> tuple[str, list[int]]:
        """Text and ids of a conversation up to where the therapist's reply begins."""
        text = self._render(messages, add_generation_prompt=True)
        ids = self._encode(text)
        if self.bos is not None and (
            ids[:2] == [self.bos, self.bos] or (self.adds_bos and ids.count(self.bos) != 1)
        ):
            count = ids.count(self.bos)
            raise UserError(
                f"{self.name}: its chat template gives a prompt with {count} BOS tokens instead of one; "
                "give a corrected one with model.chat_template=FILE.jinja"
            )
        return text, ids

    def completion(self, messages: Sequence[Message], prompt_ids: list[int], reply: str) -> list[int]:
        """Ids of a reply, up to and including its end-of-turn token."""
        ids = self._encode(self._render([*messages, {"role": "assistant", "content": reply}]))
        if ids[: len(prompt_ids)] != prompt_ids:
            raise UserError(
                f"{self.name}: its chat template does not keep the prompt as a prefix of prompt and reply; "
                "give another with model.chat_template=FILE.jinja (or model.template_args)"
            )
        completion = ids[len(prompt_ids) :]
        ends = [index for index, token in enumerate(completion) if token in self.special]
        if not ends:
            raise UserError(
                f"{self.name}: its chat template does not end a reply with a special token, so replies would never stop; "
                "give another with model.chat_template=FILE.jinja"
            )
        self.end_tokens.add(completion[ends[-1]])
        return completion[: ends[-1] + 1]

    def _render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, **self.template_args
            )
        except Exception as error:
            raise UserError(f"{self.name}: its chat template refuses the conversation ({error})") from error

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def tokenise(
    examples: Sequence[Example],
    chat: ChatFormat,
    kind: str,
    max_length: int,
    max_prompt_length: int | None = None,
    too_long: str = "drop",
    system_prompt: str | None = None,
    report: Callable[[str], None] = print,
) -> list[Group]:
    """Make Groups of `kind` "pairs" (two completions) or "completions" (the first reply only, each once).

    Rows that do not fit `max_length` are dropped or, with too_long="shorten", their replies cut (losing their end token).

    Raises:
        UserError: if a row has no second reply where pairs are needed, or the template is unusable.
    """
    groups, counts, seen = [], Counter[str](), set()
    prompts: dict[str, tuple[str, list[int]]] = {}
    for example in examples:
        if kind == "pairs" and len(example.replies) < 2:
            raise UserError(f"{example.where}: has one reply and no pair; use algo=sft, or data with chosen and rejected")
        replies = example.replies if kind == "pairs" else example.replies[:1]
        messages = _with_system(example.prompt, system_prompt)
        key = repr(messages)
        if kind == "completions" and (key, replies[0]) in seen:
            counts["rows with a prompt and reply that came before dropped"] += 1
            continue
        seen.add((key, replies[0]))
        if key not in prompts:
            prompts[key] = chat.prompt(messages)
        text, prompt_ids = prompts[key]
        room = max_length - len(prompt_ids)
        if room < 1 or (max_prompt_length and len(prompt_ids) > max_prompt_length):
            counts["rows dropped (prompt too long)"] += 1
            continue
        completions = [chat.completion(messages, prompt_ids, reply) for reply in replies]
        if max(map(len, completions)) > room:
            if too_long == "drop":
                counts["rows dropped (longer than max_length)"] += 1
                continue
            counts["rows shortened to max_length"] += 1
            completions = [ids[:room] for ids in completions]
            if kind == "pairs" and completions[0] == completions[1]:
                counts["rows dropped (the same once shortened)"] += 1
                continue
        made = [Completion(np.array(ids, np.int32), reply) for ids, reply in zip(completions, replies, strict=True)]
        groups.append(Group(example.id, np.array(prompt_ids, np.int32), made, text))
    for what, count in counts.items():
        report(f"{count} {what}")
    return groups


def _with_system(prompt: list[Message], system_prompt: str | None) -> list[Message]:
    if system_prompt is None or prompt[0]["role"] == "system":
        return prompt
    return [{"role": "system", "content": system_prompt}, *prompt]
