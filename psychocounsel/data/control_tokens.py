"""Control tokens spelled in speeches and replies are read as plain text, so that content cannot forge a turn.

A chat template joins its own control tokens and people's texts into one string, in which a tokenizer cannot tell them
apart. Content that spells a control token is therefore rendered with placeholders. A copy of the tokenizer, whose
control tokens have unguessable names, then encodes the string: the template's control tokens are renamed, those spelled
in content are not. All other content is encoded by the tokenizer itself and keeps its usual token ids.

A server renders and encodes messages itself, by a tokenizer that is unknown here. It gets every text with a space inside
whatever a model family may read as a control token (`spelled_apart`).
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from psychocounsel.data.messages import Message
from psychocounsel.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MARKUP = re.compile(r"[<\[{|].*|.*[>\]}|]", re.DOTALL)  # added tokens of this form are markup, not words
THOUGHTS = re.compile(r"\s*<think>(.*?)</think>(.*)", re.DOTALL)  # of a reply, before its text
_KNOWN = re.compile(  # of known model families: <|im_end|>, </s>, <start_of_turn>, [/INST]; \uff5c is the wide bar of DeepSeek
    r"<[|\uff5c][^<>\n]{1,60}>|<[^\s<>][^<>\n]{0,59}[|\uff5c]>|\[\|[^\[\]\n]{1,60}\|\]|</?seed:\w+>"
    r"|</?(?:s|[se]op|eo[ah]|bos|eos|pad|unk|mask|think(?:ing)?|tool_call|tool_response|image|(?:BOS|EOS)_TOKEN)>"
    r"|<(?:start|begin(?:ning)?|end)_of_\w+>|<(?:extra_id|SPECIAL|reserved)_\d+>|<</?SYS>>|\]~!?b[\[\]]|\[e~\["
    r"|\[(?:gMASK|/?(?:INST|SYSTEM_PROMPT|THINK|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT|ARGS|CALL_ID|IMG))\]",
    re.IGNORECASE,
)
_STARTS = re.compile(rf"(?={_KNOWN.pattern})(.)", re.IGNORECASE)  # of all of them, also inside another one


class ControlTokens:
    """Control tokens of `tokenizer`: its special tokens, and added tokens that are markup or occur in `template`.

    Added tokens that are words or white space (Gemma's line breaks) count as ordinary text.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        added = {token.content: (index, token) for index, token in tokenizer.added_tokens_decoder.items()}
        marks = {text: index for text, (index, token) in added.items() if token.special or _is_markup(text, template)}
        self.ids: dict[str, int] = {text: index for text, index in {**special, **marks}.items() if text.strip()}
        self.backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        self._unknown = tokenizer.unk_token_id
        self._texts = sorted(self.ids, key=len, reverse=True)  # at one place the longest token matches
        self._numbers = {text: number for number, text in enumerate(self._texts)}
        self._pattern = _any_of(self._texts)
        self._nonce = f"q{secrets.token_hex(16)}x"
        self._normalised = self._normalised_pattern([text for text, (_, token) in added.items() if token.normalized])

    def spelled_in(self, content: str) -> bool:
        """Return True if `content` spells a control token, as written or after the tokenizer's normaliser."""
        if self._pattern.search(content):
            return True
        return self._normalised is not None and bool(self._normalised.search(self._normal(content)))

    def shield(self, content: str) -> str:
        """Return `content` with a placeholder for each spelled control token."""
        return self._pattern.sub(lambda match: f"{self._nonce}{self._numbers[match[0]]}t", content)

    def plain(self, shielded: str) -> str:
        """Return the original text of `shielded`."""
        return self._placeholder.sub(lambda match: self._texts[int(match[1])], shielded)

    def apart(self, shielded: str) -> str:
        """Return `shielded` with a space inside each spelled control token, for servers that tokenise by themselves."""
        return self._placeholder.sub(lambda match: self._broken(self._texts[int(match[1])]), shielded)

    def encode(self, shielded: Sequence[str]) -> list[list[int]]:
        """Return the token ids of rendered conversations; only the template yields ids of control tokens.

        Raises:
            UserError: if the tokenizer's model turns plain text into a control token by itself.
        """
        controls = {*self.ids.values()} - {self._unknown}
        ids = []
        for text in shielded:
            expected = [self.ids[match[0]] for match in self._pattern.finditer(self._placeholder.sub(" ", text))]
            ids.append(self._copy.encode(self._either.sub(self._renamed, text), add_special_tokens=False).ids)
            if sum(index in controls for index in ids[-1]) != sum(index in controls for index in expected):
                raise UserError(
                    "the tokenizer turns plain text into control tokens: remove the rows that contain such texts"
                )
        return ids

    # -- helpers

    @cached_property
    def _placeholder(self) -> re.Pattern[str]:
        return re.compile(rf"{self._nonce}(\d+)t")

    @cached_property
    def _either(self) -> re.Pattern[str]:
        return re.compile(f"{self._placeholder.pattern}|{self._pattern.pattern}")

    def _renamed(self, match: re.Match[str]) -> str:
        return self._texts[int(match[1])] if match[1] else self._name(match[0])

    def _name(self, text: str) -> str:
        return f"{self._nonce}{self.ids[text]}c"

    def _broken(self, text: str) -> str:
        ways = (f"{text[:1]} {text[1:]}", " ".join(text))
        return next((way for way in ways if not self._pattern.search(way)), " ")

    def _normal(self, text: str) -> str:
        assert self.backend is not None and self.backend.normalizer is not None
        return str(self.backend.normalizer.normalize_str(text))

    def _normalised_pattern(self, texts: Sequence[str]) -> re.Pattern[str] | None:
        """Return the pattern of those `texts` that the tokenizer searches for in normalised text; None if it has none."""
        texts = [text for text in texts if text in self.ids]
        if not texts or self.backend is None or self.backend.normalizer is None:
            return None
        return _any_of([self._normal(text) for text in texts])

    @cached_property
    def _copy(self) -> Tokenizer:
        """Copy of the tokenizer with renamed control tokens, whose model does not know the old names either."""
        from tokenizers import Tokenizer

        assert self.backend is not None
        state = json.loads(self.backend.to_str())
        names = {text: self._name(text) for text in self.ids}
        for token in state["added_tokens"]:
            token["content"] = names.get(token["content"], token["content"])
        model = state["model"]
        if isinstance(model["vocab"], dict):
            kept = {text: index for text, index in model["vocab"].items() if text not in names}
            model["vocab"] = kept | {names[text]: index for text, index in self.ids.items()}
        else:
            model["vocab"] = _renamed_pieces(model["vocab"], names, self.ids)
        if "merges" in model:
            model["merges"] = [merge for merge in model["merges"] if _merged(merge) not in names]
        if model.get("unk_token") in names:
            model["unk_token"] = names[model["unk_token"]]
        return Tokenizer.from_str(json.dumps(state | {"padding": None, "truncation": None, "post_processor": None}))


def may_forge_turns(content: str) -> bool:
    """Return True if `content` looks like a control token of some model; for servers with an unknown tokenizer."""
    return bool(_KNOWN.search(content))


@lru_cache(maxsize=1024)  # the same rubric of 65,000 characters begins every rating prompt
def spelled_apart(content: str) -> str:
    """Return `content` with a space inside whatever looks like a control token of some model; once apart, it stays the same."""
    return _STARTS.sub(r"\1 ", content)


def messages_for_server(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with control tokens spelled apart, except the tags of thoughts at the start of an earlier reply."""
    return [
        {name: text if name == "role" else _for_server(text, message["role"]) for name, text in message.items()}
        for message in messages
    ]


def _for_server(text: str, role: str) -> str:
    thoughts = THOUGHTS.fullmatch(text) if role == "assistant" else None
    if thoughts is None:
        return spelled_apart(text)
    return f"{text[: thoughts.start(1)]}{spelled_apart(thoughts[1])}</think>{spelled_apart(thoughts[2])}"


def _is_markup(text: str, template: str) -> bool:
    return bool(_MARKUP.fullmatch(text.strip())) or text in template


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def _merged(merge: Any) -> str:
    return "".join(merge.split(" ") if isinstance(merge, str) else merge)


def _renamed_pieces(pieces: list[Any], names: dict[str, str], ids: dict[str, int]) -> list[Any]:
    """Return the vocabulary of a Unigram model, in which a piece's index is its id, with renamed control tokens."""
    known = {text for text, _ in pieces}
    missing = {index: names[text] for text, index in ids.items() if text not in known}
    filler = "".join(names.values())  # occurs in no text
    end = max([len(pieces), *(index + 1 for index in missing)])
    more = [[missing.get(index, f"{filler}{index}"), 0.0] for index in range(len(pieces), end)]
    return [[names.get(text, text), score] for text, score in pieces] + more
