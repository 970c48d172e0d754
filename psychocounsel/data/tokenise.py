"""Tokenising: turns Examples into Groups of token ids by the model's chat template."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.control_tokens import THOUGHTS, ControlTokens
from psychocounsel.data.group import Array, Completion, Group
from psychocounsel.data.messages import Message
from psychocounsel.data.rows import Example, report_dropped
from psychocounsel.errors import UserError, words

_FIXED_DATE = datetime(2024, 7, 26)
# Before each template: transformers passes no functions to templates. The macro's line end is no part of the text.
_FIXED_CLOCK = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(
        f" | replace('%{form}', '{_FIXED_DATE.strftime('%' + form)}')" for form in ("-d", "-m", *"aAbBdeFHIjmMpSyY")
    )
    + " }}{%- endmacro %}\n"
)
_SHIELDED = "rows spell control tokens, which are read as plain text"
_WITHOUT_SYSTEM = (
    "leave them out (model.system_prompt=null; of the rows, replies.system_prompt or /system), or give a template that "
    "accepts them (chat_template=FILE beside the model's path)"
)
_BLOCK = 512  # rows encoded per call, so that the tokenizer uses all cores


@dataclass(frozen=True)
class Rendered:
    """Conversation rendered by the chat template.

    `shielded` is the same text with placeholders for control tokens that a message spells; None if none does.
    """

    text: str
    shielded: str | None = None


class ChatFormat:
    """Renders conversations with a tokenizer's chat template and encodes them.

    The prompt, and the prompt with the reply, are each rendered once; the first must be a token prefix of the second.
    `system_prompt` is put before each conversation that has no system message.
    Templates see a fixed date, because today's date would change the tokens from day to day. Control tokens spelled in
    a message are encoded as plain text. A template that knows `reasoning_content` gets the `<think>` part of a
    therapist's message in it, and writes its own form of it.

    Raises:
        UserError: at construction if the tokenizer has no chat template; later if the template rejects a conversation,
            leaves out its system message, breaks the prefix, doubles BOS, or leaves the reply without an end-of-turn
            token, and if the model has no embedding of a token.
    """

    def __init__(
        self, tokenizer: Any, template_args: dict[str, Any], name: str, system_prompt: str | None = None
    ) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                f"{name}: its tokenizer has no chat template; use an instruction-tuned model, "
                "or give model.chat_template=FILE.jinja"
            )
        self.tokenizer, self.name, self.system_prompt = tokenizer, name, system_prompt
        self.template_args = template_args
        try:
            self.template = _FIXED_CLOCK + tokenizer.get_chat_template()
        except ValueError as error:  # several templates, and none of them is the default
            raise UserError(
                f"{name}: its tokenizer has several chat templates ({', '.join(sorted(tokenizer.chat_template))}) and no "
                "default; give model.chat_template=FILE.jinja"
            ) from error
        self.bos = tokenizer.bos_token_id
        self.adds_bos = self.bos is not None and tokenizer("x")["input_ids"][:1] == [self.bos]
        added = tokenizer.added_tokens_decoder
        self.special = {index for index, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self.control = ControlTokens(tokenizer, str(tokenizer.chat_template))
        self.end_tokens: set[int] = set()
        self.keep_tail = False  # True for reward models, which read the whole template, as plain transformers does
        self.thinks = "reasoning_content" in str(tokenizer.chat_template)
        self.positions: int | None = None  # longest conversation of the model; None: unknown
        self.vocabulary: int | None = None  # number of its token embeddings; None: unknown
        self.own_ends: list[int] = []  # end tokens that the model's generation_config.json names

    def render(self, messages: Sequence[Message], reply: str | None = None) -> Rendered:
        """Render the conversation with `reply`, or, without a reply, up to the point where the reply would begin."""
        answer: list[Message] = [] if reply is None else [{"role": "assistant", "content": reply}]
        conversation = [*with_system_prompt(messages, self.system_prompt), *answer]
        if self.thinks:
            conversation = [_with_thoughts_apart(message) for message in conversation]
        if not any(map(self.control.spelled_in, (text for message in conversation for text in _texts(message)))):
            return Rendered(self._complete(conversation, reply is None))
        if self.control.backend is None:
            raise UserError(
                f"{self.name}: a text spells a control token, and its kind of tokenizer ({type(self.tokenizer).__name__}) "
                "would read it as one; remove the row, or use a fast tokenizer (tokenizer.json)"
            )
        safe = [
            {name: text if name == "role" else self.control.shield(text) for name, text in message.items()}
            for message in conversation
        ]
        shielded = self._complete(safe, reply is None)
        return Rendered(self.control.plain(shielded), shielded)

    def for_server(self, rendered: Rendered) -> str:
        """Return the text for a server with this tokenizer; control tokens that a message spells are broken up."""
        return rendered.text if rendered.shielded is None else self.control.apart(rendered.shielded)

    def _complete(self, conversation: Sequence[Message], prompts: bool) -> str:
        """Return the rendered conversation, which must contain the whole last message if it is a reply."""
        text = self._apply(conversation, prompts)
        if not prompts and not all(part.strip() in text for part in _texts(conversation[-1])):
            raise UserError(
                f"{self.name}: its chat template leaves out or changes a part of the reply, such as its thoughts: remove that "
                "part, or give a corrected template with model.chat_template=FILE.jinja"
            )
        return text

    def _apply(self, conversation: Sequence[Message], prompts: bool) -> str:
        try:
            text = str(
                self.tokenizer.apply_chat_template(
                    [*conversation],
                    chat_template=self.template,
                    tokenize=False,
                    add_generation_prompt=prompts,
                    **self.template_args,
                )
            )
        except Exception as error:
            reason = words(str(error).split("\n")[0])
            if conversation[0]["role"] == "system" and self._rendered(conversation[1:], prompts) is not None:
                raise UserError(
                    f"{self.name}: its chat template refuses system messages ({reason}): {_WITHOUT_SYSTEM}"
                ) from error
            raise UserError(f"{self.name}: its chat template refuses the conversation ({reason})") from error
        first = conversation[0]
        if (
            first["role"] == "system"
            and first["content"] not in text
            and text == self._rendered(conversation[1:], prompts)
        ):
            raise UserError(
                f"{self.name}: its chat template writes no system messages, so the model would never see them: {_WITHOUT_SYSTEM}"
            )
        return text

    def _rendered(self, conversation: Sequence[Message], prompts: bool) -> str | None:
        try:
            return self._apply(conversation, prompts)
        except UserError:
            return None

    def encode_prompts(self, texts: Sequence[Rendered]) -> list[Array]:
        """Return the ids of rendered prompts, int32, each beginning with the single BOS that the model expects."""
        encoded = self._encode(texts)
        for ids in encoded:
            self._check_bos(ids)
        return encoded

    def encode_replies(self, texts: Sequence[Rendered], prompts: Sequence[Array]) -> list[Array]:
        """Return the ids that `texts` (prompt and reply) add to their prompts, int32, up to the end-of-turn token."""
        replies = []
        for ids, prompt in zip(self._encode(texts), prompts, strict=True):
            if not np.array_equal(ids[: len(prompt)], prompt):
                raise self.unusable("does not keep the prompt as a prefix of prompt and reply")
            replies.append(self._up_to_end(ids[len(prompt) :]))
        return replies

    def end_token(self) -> int:
        """Return the id of the token that ends an ordinary reply."""
        messages: list[Message] = [{"role": "user", "content": "Hello."}]
        (prompt,) = self.encode_prompts([self.render(messages)])
        (reply,) = self.encode_replies([self.render(messages, "Hello.")], [prompt])
        return int(reply[-1])

    def ends(self) -> list[int]:
        """Return the ids of all tokens that end a reply: that of the template, and the model's own."""
        return sorted({self.end_token(), *self.own_ends})

    def used_tokens(self) -> set[int]:
        """Return the ids of the special tokens in an ordinary conversation."""
        text = self.render([{"role": "user", "content": "Hello."}], "Hello.")
        return self.special & {int(index) for index in self._encode([text])[0]}

    def _check_bos(self, ids: Array) -> None:
        """Refuse a prompt that begins with two BOS, or lacks the one that the tokenizer adds to plain texts.

        Later ones are right: the template of Llama-2 writes BOS before each turn of the user.
        """
        begins = [int(index) == self.bos for index in ids[:2]] if self.bos is not None else []
        if begins == [True, True] or (self.adds_bos and not any(begins[:1])):
            raise self.unusable(f"begins a prompt with {sum(begins)} BOS tokens instead of one")

    def _up_to_end(self, reply: Array) -> Array:
        """Return the reply up to the first special token after its text (whole with `keep_tail`).

        Some templates write further tokens after it, such as a line break or the end of the whole conversation.
        """
        end = None
        for place in range(len(reply) - 1, -1, -1):
            if int(reply[place]) in self.special:
                end = place
            elif self.tokenizer.decode([reply[place]]).strip():
                break
        if end is None:
            raise self.unusable("does not end a reply with a special token, so replies would never stop")
        self.end_tokens.add(int(reply[end]))
        kept = reply if self.keep_tail else reply[: end + 1]
        return kept.copy()  # a view would keep each prompt in memory as well

    def unusable(self, what: str) -> UserError:
        """Return the error of a template that does `what`."""
        return UserError(
            f"{self.name}: its chat template {what}; "
            "give a corrected one with model.chat_template=FILE.jinja (or model.template_args)"
        )

    def _encode(self, texts: Sequence[Rendered]) -> list[Array]:
        plain = [text.text for text in texts if text.shielded is None]
        options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        encoded = iter(self.tokenizer(plain, add_special_tokens=False, **options)["input_ids"] if plain else [])
        shielded = iter(self.control.encode([text.shielded for text in texts if text.shielded is not None]))
        every = [np.array(next(encoded if text.shielded is None else shielded), np.int32) for text in texts]
        if self.vocabulary is not None and any(ids.size and ids.max() >= self.vocabulary for ids in every):
            raise UserError(
                f"{self.name}: its tokenizer has {len(self.tokenizer)} tokens, and its model embeds {self.vocabulary}: give the "
                "tokenizer that belongs to the model, or resize the model's embedding"
            )
        return every


def _texts(message: Message) -> list[str]:
    return [text for name, text in message.items() if name != "role"]


def _with_thoughts_apart(message: Message) -> Message:
    """Return a therapist's message with its `<think>` part as `reasoning_content`; other messages unchanged."""
    parts = THOUGHTS.fullmatch(message["content"]) if message["role"] == "assistant" else None
    if parts is None or not parts[1].strip():
        return message
    return {**message, "reasoning_content": parts[1].strip("\n"), "content": parts[2].strip("\n")}


def tokenise(
    examples: Sequence[Example],
    chat: ChatFormat,
    kind: str,
    max_length: int,
    max_prompt_length: int | None = None,
    too_long: str = "drop",
    report: Callable[[str], None] = print,
    drop_bad: bool = False,
) -> list[Group]:
    """Make Groups of one `kind` from examples.

    "pairs": two completions, chosen first. "completions": the first reply, unless it is a duplicate or labelled bad.
    "labelled": pairs (chosen is good, rejected is bad) and labelled single replies. "prompts": each prompt once.

    Rows longer than `max_length` tokens are dropped; too_long="shorten" cuts their replies, which lose the end token.
    Rows with a prompt longer than `max_prompt_length` tokens, or without room for a reply, are always dropped.

    Raises:
        UserError: for an unusable template; for a row without a needed reply or label (`drop_bad`: if none is left).
    """
    counts, total = Counter[str](), len(examples)
    if kind == "completions":
        good = [example for example in examples if example.label is not False]
        counts["rows dropped (their reply is labelled bad)"] = len(examples) - len(good)
        examples = good
        firsts = {
            (repr(example.prompt), *example.replies[:1], repr((example.turns or [])[:1])): example
            for example in reversed(examples)
        }
        counts["rows dropped (their prompt and reply repeat an earlier row)"] = len(examples) - len(firsts)
        examples = [
            replace(example, replies=example.replies[:1], turns=example.turns and example.turns[:1])
            for example in reversed(firsts.values())
        ]
    if kind == "prompts":
        examples = list(
            {repr(example.prompt): replace(example, replies=[], turns=None) for example in reversed(examples)}.values()
        )
        examples.reverse()
        total = len(examples)
    groups, limits = list[Group](), (max_length, max_prompt_length or max_length, too_long, counts)
    bad: list[str] | None = [] if drop_bad else None
    for start in range(0, len(examples), _BLOCK):
        block = examples[start : start + _BLOCK]
        rows = [row for example in block if (row := _render(example, chat, kind, bad)) is not None]
        counts[_SHIELDED] += sum(row.is_shielded for row in rows)
        groups += [group for group in _usable(rows, chat, bad) if _fits(group, *limits)]
    report_dropped(bad, len(examples), "chat template", report)
    for what, count in counts.items():
        if count:
            report(f"{count} of {total} {what}")
    return groups


@dataclass
class _Rendered:
    example: Example
    prompt: Rendered
    replies: list[
        list[tuple[Rendered, Rendered]]
    ]  # each turn of each reply: what stands before it, and that with the turn
    messages: list[Message] | None = None

    @property
    def turns(self) -> list[tuple[Rendered, Rendered]]:
        return [turn for reply in self.replies for turn in reply]

    @property
    def is_shielded(self) -> bool:
        texts = (self.prompt, *(text for turn in self.turns for text in turn))
        return any(text.shielded is not None for text in texts)


def _render(example: Example, chat: ChatFormat, kind: str, bad: list[str] | None) -> _Rendered | None:
    """Return the row's texts; for an unusable row, append the reason to `bad` and return None, or raise if `bad` is None."""
    try:
        return _rendered(example, chat, kind)
    except UserError as error:
        if bad is None:
            raise
        bad.append(str(error))
        return None


def _rendered(example: Example, chat: ChatFormat, kind: str) -> _Rendered:
    if kind != "prompts" and not example.replies:
        raise UserError(
            f"{example.where}: has a prompt and no reply; a reply stands in the column completion (or response, answer), a pair "
            "in chosen and rejected; speeches alone are for online algorithms (algo=online_dpo, ppo, rloo, grpo)"
            f"{example.hint}"
        )
    if kind == "pairs" and len(example.replies) < 2:
        raise UserError(
            f"{example.where}: has only one reply, not a pair; use algo=sft, or data with chosen and rejected"
        )
    if kind == "labelled" and len(example.replies) < 2 and example.label is None:
        raise UserError(f"{example.where}: has only one reply and no label; add label: true or false, or give pairs")
    try:
        prompt = chat.render(example.prompt)
        if example.turns:
            replies = [_session(example.prompt, prompt, turns, chat) for turns in example.turns]
        else:
            replies = [[(prompt, chat.render(example.prompt, reply))] for reply in example.replies]
        messages = with_system_prompt(example.prompt, chat.system_prompt) if kind == "prompts" else None
        return _Rendered(example, prompt, replies, messages)
    except UserError as error:
        raise UserError(f"{example.where}: {error}") from error


def _session(
    messages: Sequence[Message], prompt: Rendered, turns: Sequence[Message], chat: ChatFormat
) -> list[tuple[Rendered, Rendered]]:
    """Return the text before each of the therapist's turns, and that with the turn; a reward model reads all of it at once."""
    if chat.keep_tail:
        return [(prompt, chat.render([*messages, *turns[:-1]], turns[-1]["content"]))]
    pairs = []
    for place in range(0, len(turns), 2):
        before = [*messages, *turns[:place]]
        pairs.append((chat.render(before), chat.render(before, turns[place]["content"])))
    return pairs


def with_system_prompt(prompt: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """Return the prompt with this system message, unless it has one of its own or none is given."""
    if system_prompt is None or (prompt and prompt[0]["role"] == "system"):
        return [*prompt]
    return [{"role": "system", "content": system_prompt}, *prompt]


def without_system_prompt(prompt: Sequence[Message], system_prompt: str | None) -> list[Message]:
    """Return the prompt without the system message that `with_system_prompt` added."""
    added = system_prompt is not None and [*prompt[:1]] == [{"role": "system", "content": system_prompt}]
    return [*prompt[1:]] if added else [*prompt]


def _usable(rows: Sequence[_Rendered], chat: ChatFormat, bad: list[str] | None) -> list[Group]:
    """Return the groups of `rows`. For each row that cannot be encoded, append the reason to `bad`, or raise if it is None."""
    try:
        return list(_encode(rows, chat))
    except UserError:
        pass  # encoded one by one, the row that is to blame is known
    groups: list[Group] = []
    for row in rows:
        try:
            groups += _encode([row], chat)
        except UserError as error:
            reason = f"{row.example.where}: {error}"
            if bad is None:
                raise UserError(reason) from error
            bad.append(reason)
    return groups


def _encode(rows: Sequence[_Rendered], chat: ChatFormat) -> Iterator[Group]:
    texts = list(dict.fromkeys(text for row in rows for text in (row.prompt, *(before for before, _ in row.turns))))
    prompts = dict(zip(texts, chat.encode_prompts(texts), strict=True))
    whole = [(text, prompts[before]) for row in rows for before, text in row.turns]
    encoded = iter(chat.encode_replies([text for text, _ in whole], [prompt for _, prompt in whole]))
    for row in rows:
        example = row.example
        replies = [
            [Group("", prompts[before], [Completion(next(encoded))]) for before, _ in turns] for turns in row.replies
        ]
        scores: list[float | None] = [*example.scores] if example.scores else [None] * len(example.replies)
        ratings = example.ratings or example.some_ratings or [{}] * len(example.replies)
        labels = [example.label] if len(example.replies) == 1 else [True, False]
        completions = [
            replace(_stretch(turns, chat), text=text, reward=score, label=label, ratings=_ratings(rated))
            for turns, text, score, label, rated in zip(replies, example.replies, scores, labels, ratings, strict=False)
        ]
        yield Group(
            example.id,
            prompts[row.prompt],
            completions,
            row.prompt.text,
            row.messages,
            probability=example.probability,
        )


def _stretch(turns: Sequence[Group], chat: ChatFormat) -> Completion:
    """Return the completion of a session from its turns; its prompt is that of the first one."""
    rows = join_turns(turns)
    if len(rows) > 1:
        raise chat.unusable("changes or leaves out earlier turns, so the turns of a session cannot be trained together")
    return rows[0].completions[0]


def join_turns(turns: Sequence[Group]) -> list[Group]:
    """Return the turns of conversations, one completion each, as stretches of which all turns are trained in one pass.

    A turn continues the row before it if its prompt begins with all tokens of that row. Every trained token then sees
    the same tokens as in a row of its own. Where a chat template changes earlier turns, a new row begins.
    """
    rows: list[Group] = []
    for turn in turns:
        row = rows[-1] if rows else None
        if row is not None and _begins_with(turn.prompt_ids, row.prompt_ids, row.completions[0].ids):
            between = turn.prompt_ids[row.tokens :]
            rows[-1] = replace(row, completions=[row.completions[0].then(between, turn.completions[0])])
        else:
            rows.append(turn)
    return rows


def _begins_with(ids: Array, first: Array, second: Array) -> bool:
    length = len(first) + len(second)
    return np.array_equal(ids[: len(first)], first) and np.array_equal(ids[len(first) : length], second)


def _ratings(rated: Mapping[str, float]) -> Array | None:
    """Return the ratings in the order of PRINCIPLES, float32[7], NaN for those that are missing; None without any."""
    return np.array([rated.get(name, np.nan) for name in PRINCIPLES], np.float32) if rated else None


def _fits(group: Group, max_length: int, max_prompt_length: int, too_long: str, counts: Counter[str]) -> bool:
    """Return True if the group is kept, cut to `max_length` if `too_long` allows it; count dropped and shortened rows."""
    room = max_length - len(group.prompt_ids)
    if room < 1 or len(group.prompt_ids) > max_prompt_length:
        counts["rows dropped (prompt too long)"] += 1
        return False
    if _alike(group):
        counts["rows dropped (their replies are the same tokens)"] += 1
        return False
    if all(len(completion.ids) <= room for completion in group.completions):
        return True
    if too_long == "drop":
        counts[f"rows dropped (longer than max_length={max_length}; data.too_long=shorten cuts them)"] += 1
        return False
    group.completions = [completion.cut(room) for completion in group.completions]
    if _alike(group):
        counts["rows dropped (their replies are the same once shortened)"] += 1
        return False
    counts["rows shortened to max_length"] += 1
    return True


def _alike(group: Group) -> bool:
    return len({completion.ids.tobytes() for completion in group.completions}) < len(group.completions)
