"""Metrics of replies that a policy wrote, and a page with a few of them for people to read."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from psychocounsel.blocks.markdown import quotation
from psychocounsel.data.group import SESSION_ENDS, Array, Completion, Group
from psychocounsel.data.messages import Message
from psychocounsel.data.near_duplicates import CJK
from psychocounsel.data.shared_text import clients_of_groups
from psychocounsel.metrics.intervals import FEWEST, mean_intervals

# Metrics of replies that a policy wrote.

MOSTLY_CUT = 0.5  # share of replies cut at the limit of tokens from which on a warning is printed
GRAM = 4  # words or tokens in a run
_SHARES = ("unfinished", *SESSION_ENDS.values())  # figures that are 0 or 1 for each reply


def reply_metrics(groups: Sequence[Group], reference: list[list[Array]] | None, prefix: str) -> dict[str, float]:
    """Return the mean of each figure of `reply_figures` over the replies of `groups` that have it, as `<prefix>/<name>`.

    NaN if none has it.
    """
    figures = reply_figures(groups, reference)
    known = {name: np.array(values, np.float64) for name, values in figures.items()}
    return {
        f"{prefix}/{name}": math.nan if np.isnan(values).all() else float(np.nanmean(values))
        for name, values in known.items()
    }


def reply_intervals(groups: Sequence[Group], reference: list[list[Array]] | None, prefix: str) -> dict[str, float]:
    """Return the 95 % interval over clients of each figure of `reply_metrics`, as `<prefix>/<name>_low` and `_high`.

    A single client has no spread, so it gets no intervals, nor does a figure that some replies lack. With
    fewer than `FEWEST` clients only shares get one.
    """
    figures = {name: values for name, values in reply_figures(groups, reference).items() if not np.isnan(values).any()}
    of_groups = zip(groups, clients_of_groups(groups).tolist(), strict=True)
    numbers = [client for group, client in of_groups for _ in group.completions]
    clients = len({*numbers})
    if not figures or clients < 2:
        return {}
    shares = np.array([name in _SHARES for name in figures])
    rows = mean_intervals(np.array([*figures.values()], np.float64).T, np.array(numbers), shares=shares)
    return {
        f"{prefix}/{name}_{end}": float(value)
        for name, pair in zip(figures, rows, strict=True)
        for end, value in zip(("low", "high"), pair, strict=True)
        if name in _SHARES or clients >= FEWEST
    }


def reply_figures(groups: Sequence[Group], reference: list[list[Array]] | None) -> dict[str, list[float]]:
    """Return the figures of each reply, by name; empty without replies.

    `reward`: the reply's reward, if replies are scored, and `reward_<part>` for each member of an ensemble of reward models,
    or each principle (NaN if it is not applicable to the reply).
    `length`: number of the policy's tokens.
    `unfinished`: 1 if the reply was cut at the length limit, otherwise 0.
    `repetition`: see the function of this name.
    `echo`, `recital`: `copied_share` of the reply's words, from the client's turns and from the system prompt; each only
    if all prompts have such messages.
    `turns`, `only_asks`: of sessions, the policy's turns, and the share of them that consist of questions alone.
    `client_left`, `out_of_room`, `rewritten`: 1 if the session ended in this way (`SESSION_ENDS`), otherwise 0.
    `kl`: sum over tokens of log pi - log ref [nats]; only with `reference`, log-probabilities float32[len] for each
    reply of each group.
    """
    replies = [completion for group in groups for completion in group.completions]
    if not replies:
        return {}
    figures: dict[str, list[float]] = {
        "length": [reply.trained_tokens for reply in replies],
        "unfinished": [reply.finish_reason == "length" for reply in replies],
        "repetition": [repetition(reply.trained_ids.tolist()) for reply in replies],
    }
    if all(reply.session is not None for reply in replies):
        figures["turns"] = [len(reply.turn_lengths) for reply in replies]
        figures["only_asks"] = [_only_asks(reply) for reply in replies]
        figures |= {end: [reply.finish_reason == why for reply in replies] for why, end in SESSION_ENDS.items()}
    if any(reply.reward is not None for reply in replies):
        figures = {"reward": [reply.reward or 0.0 for reply in replies], **figures}
    for name, role in COPIED_FROM.items():
        if all(any(message["role"] == role for message in group.messages or ()) for group in groups):
            figures[name] = [_copied(reply, group, role) for group in groups for reply in group.completions]
    for name in sorted({name for reply in replies for name in reply.reward_parts or ()}):
        figures[f"reward_{name}"] = [(reply.reward_parts or {}).get(name, math.nan) for reply in replies]
    if reference is not None:
        flat = [values for of_group in reference for values in of_group]
        figures["kl"] = [
            float((reply.logprobs - values).sum()) if reply.logprobs is not None else 0.0
            for reply, values in zip(replies, flat, strict=True)
        ]
    return figures


def cut_warning(share: float, writer: str, key: str, limit: int) -> Iterator[str]:
    """Yield a warning if at least half of the replies of `writer` were cut at `limit` tokens, the value of `key`."""
    if share >= MOSTLY_CUT:
        cut = f"{100 * share:.0f} % of the replies were cut at {key}={limit}"
        yield f"warning: {writer}: {cut}, so the figures are those of cut texts; raise {key}"


_WORD = re.compile(rf"[{CJK}]|(?:(?![{CJK}])\w)+(?:['\u2019](?:(?![{CJK}])\w)+)*")
CONTENT_WORD = re.compile(r"[^\W\d_]{4,}")  # four letters or more, because most shorter words occur in all texts
COPIED_FROM = {"echo": "user", "recital": "system"}  # figure: the role whose words are copied


def words_of(text: str) -> list[str]:
    """Return the lower-cased words without punctuation; each Chinese, Japanese or Korean character is a word."""
    return _WORD.findall(text.lower().replace("\u2019", "'"))


def copied_share(words: Sequence[str], source: Sequence[str]) -> float:
    """Return the share of `words` within runs of four or more words that also stand in `source`; 0 for fewer than four."""
    known = {tuple(source[start : start + GRAM]) for start in range(len(source) - GRAM + 1)}
    copied = set[int]()
    for start in range(len(words) - GRAM + 1):
        if tuple(words[start : start + GRAM]) in known:
            copied.update(range(start, start + GRAM))
    return len(copied) / len(words) if words else 0.0


def _words_by(role: str, messages: Sequence[Message]) -> list[str]:
    return [word for message in messages if message["role"] == role for word in words_of(message["content"])]


def _copied(reply: Completion, group: Group, role: str) -> float:
    """Return the share of the policy's words that are copied from the messages of `role`, of the prompt and the session."""
    return copied_share(words_of(reply.text), _words_by(role, [*(group.messages or []), *(reply.session or [])]))


def _only_asks(reply: Completion) -> float:
    """Return the share of the policy's turns in a session in which every sentence is a question."""
    turns = [message["content"] for message in reply.session or [] if message["role"] == "assistant"]
    endings = [re.findall(r"[.!?\u2026](?=\s|$)", text.strip()) for text in turns]
    return sum(bool(marks) and {*marks} == {"?"} for marks in endings) / len(turns)


def repetition(ids: Sequence[int]) -> float:
    """Return the share of four-token runs in `ids` that repeat an earlier run; 0 for fewer than five tokens.

    1 - (number of distinct runs) / (number of runs), in [0, 1].
    """
    runs = [tuple(ids[start : start + GRAM]) for start in range(len(ids) - GRAM + 1)]
    return 1 - len(Counter(runs)) / len(runs) if len(runs) > 1 else 0.0


# Markdown page with a few of the policy's replies for people to read.


def sample_page(groups: Sequence[Group], count: int, title: str) -> str:
    """Return a page with the first `count` of the scored `groups`: prompt, best reply and, of several replies, the worst."""
    parts = [f"# {title}"]
    for group in groups[:count]:
        ranked = sorted(group.completions, key=lambda reply: -(reply.reward or 0.0))
        parts += [quotation(message["content"], f"**{message['role']}**: ") for message in group.messages or []]
        parts += [_shown(reply, group) for reply in (ranked[:1] if len(ranked) < 2 else [ranked[0], ranked[-1]])]
        parts.append("---")
    return "\n\n".join(parts) + "\n"


def _shown(reply: Completion, group: Group) -> str:
    marks = [", cut"] if reply.finish_reason == "length" else []
    marks += [f", {SESSION_ENDS[reply.finish_reason].replace('_', ' ')}"] if reply.finish_reason in SESSION_ENDS else []
    for name, role in COPIED_FROM.items():
        if share := _copied(reply, group, role):
            marks.append(f", {name} {100 * share:.0f} %")
    reward = "" if reply.reward is None else f"reward {reply.reward:.3f}, "
    head = f"{reward}{reply.trained_tokens} tokens{''.join(marks)}\n\n"
    return head + (quotation(reply.text) if reply.session is None else _turns(reply))


def _turns(reply: Completion) -> str:
    """Return the turns of a session after its prompt, the policy's with what they earned of its reward."""
    earned = [""] * len(reply.turn_lengths)
    if reply.turn_rewards is not None:
        earned = [f" ({reward:+.3f})" for reward in reply.turn_rewards]
    return "\n\n".join(
        quotation(message["content"], f"**{message['role']}**{'' if place % 2 else earned[place // 2]}: ")
        for place, message in enumerate(reply.session or [])
    )
