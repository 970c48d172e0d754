"""Texts of control tokens inside of speeches and replies: read as plain text, so that content can forge no turn.

A chat template joins its own control tokens and people's texts to one string, and a tokenizer cannot tell them apart in it.
So content with such a text is rendered with placeholders in their stead. Then a copy of the tokenizer encodes the string, in
which control tokens have names that nobody can guess: the template's are renamed, those in content stay as they are written.
All other content takes the tokenizer's own way, and has the token ids that it always had.
"""

import json
import re
import secrets
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from psychocounsel.errors import UserError

_MARKUP = re.compile(r"[<\[{|].*|.*[>\]}|]", re.DOTALL)  # added tokens that look so are no words of a language
_KNOWN = re.compile(  # of the families of models: <|im_end|>, </s>, <start_of_turn>, [/INST]; \uff5c is the wide bar of DeepSeek
    r"<[|\uff5c][^<>\n]{1,60}>|<[^<>\n]{1,60}[|\uff5c]>|</?(?:s|bos|eos|pad|unk|mask|think|tool_call|tool_response|image)>"
    r"|<(?:start|end)_of_\w+>|\[/?(?:INST|SYSTEM_PROMPT|THINK|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT)\]"
    r"|<</?SYS>>",
    re.IGNORECASE,
)


class ControlTokens:
    """The control tokens of `tokenizer`: its special tokens, and added ones that are markup or stand in `template`.

    Added tokens that are words or white space (Gemma's line breaks) are ordinary text.
    """

    def __init__(self, tokenizer: Any, template: str) -> None:
        special = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
        added = {token.content: (index, token) for index, token in tokenizer.added_tokens_decoder.items()}
        found = {text: index for text, (index, token) in added.items() if token.special or _is_markup(text, template)}
        self.ids: dict[str, int] = {text: index for text, index in {**special, **found}.items() if text.strip()}
        self.backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
        self._unknown = tokenizer.unk_token_id
        self._texts = sorted(self.ids, key=len, reverse=True)  # the longest of those that begin at one place counts
        self._numbers = {text: number for number, text in enumerate(self._texts)}
        self._pattern = _any_of(self._texts)
        self._nonce = f"q{secrets.token_hex(16)}x"
        self._normalised = self._normalised_pattern([text for text, (_, token) in added.items() if token.normalized])

    def found(self, content: str) -> bool:
        """Whether `content` spells a control token, also after the tokenizer's normaliser."""
        if self._pattern.search(content):
            return True
        return self._normalised is not None and bool(self._normalised.search(self._normal(content)))

    def shield(self, content: str) -> str:
        """`content` with a placeholder for each text of a control token."""
        return self._pattern.sub(lambda match: f"{self._nonce}{self._numbers[match[0]]}t", content)

    def plain(self, shielded: str) -> str:
        """`shielded` as it was written."""
        return self._placeholder.sub(lambda match: self._texts[int(match[1])], shielded)

    def apart(self, shielded: str) -> str:
        """`shielded` with a space in each text of a control token: for servers that tokenise by themselves."""
        return self._placeholder.sub(lambda match: self._broken(self._texts[int(match[1])]), shielded)

    def encode(self, shielded: Sequence[str]) -> list[list[int]]:
        """Token ids of rendered conversations: control ids come from the template alone.

        Raises:
            UserError: if the tokenizer's model makes a control token of plain text by itself.
        """
        controls = {*self.ids.values()} - {self._unknown}
        ids = []
        for text in shielded:
            expected = [self.ids[match[0]] for match in self._pattern.finditer(self._placeholder.sub(" ", text))]
            ids.append(self._copy.encode(self._either.sub(self._renamed, text), add_special_tokens=False).ids)
            if sum(index in controls for index in ids[-1]) != sum(index in controls for index in expected):
                raise UserError(
                    "the tokenizer makes control tokens of plain text: remove the rows that contain such texts"
                )
        return ids

    # -- small parts

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
        """Of tokens that the tokenizer looks for in normalised text, as `texts` of them say."""
        texts = [text for text in texts if text in self.ids]
        if not texts or self.backend is None or self.backend.normalizer is None:
            return None
        return _any_of([self._normal(text) for text in texts])

    @cached_property
    def _copy(self) -> Tokenizer:
        """The tokenizer with other names for control tokens, under which its model does not know them either."""
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
    """Whether `content` looks like a control token of some model: for servers whose tokenizer is not known here."""
    return bool(_KNOWN.search(content))


def _is_markup(text: str, template: str) -> bool:
    return bool(_MARKUP.fullmatch(text.strip())) or text in template


def _any_of(texts: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or r"(?!)")


def _merged(merge: Any) -> str:
    return "".join(merge.split(" ") if isinstance(merge, str) else merge)


def _renamed_pieces(pieces: list[Any], names: dict[str, str], ids: dict[str, int]) -> list[Any]:
    """The vocabulary of a Unigram model, in which a piece's place is its id."""
    known = {text for text, _ in pieces}
    missing = {index: names[text] for text, index in ids.items() if text not in known}
    filler = "".join(names.values())  # no text holds it
    end = max([len(pieces), *(index + 1 for index in missing)])
    more = [[missing.get(index, f"{filler}{index}"), 0.0] for index in range(len(pieces), end)]
    return [[names.get(text, text), score] for text, score in pieces] + more
