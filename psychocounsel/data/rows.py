"""Parser that turns rows of any supported format into Examples: prompt, replies, and their place.

Formats, recognised by their columns (null counts as missing):
    preference    prompt|question, chosen, rejected: strings or lists of chat messages, also of several turns (they may
                  repeat the prompt)
    implicit      chosen, rejected: whole conversations with the same beginning, as lists of messages or transcripts
    demonstration prompt|question, completion|response|answer; or a conversation: messages|conversations|dialog
    unpaired      a demonstration with label: true (a good reply) or false (a bad one)
    rated         prompt|question, replies: [{text, ratings: {empathy: 5, ...}}]
    speech        prompt|question alone

Optional columns are kept: ratings (`chosen_empathy_rating`, ...), the writers of replies (`chosen_model`,
`rejected_model`; `model` of a rated reply), the `topic` and `risk` of the prompt, and its `system` message.
`harmful: true` marks a rated reply that must never be chosen. `chosen_probability`, from 0 to 1, is the soft label of a
preference row: the probability that its chosen reply is preferred. Demonstrations with a number in `reply_score` become
pairs: of two replies to one prompt, that with the higher number is chosen.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, takewhile
from typing import Any

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.html_text import has_html, without_html
from psychocounsel.data.messages import (
    MARKS,
    TALKS,
    WITHOUT_SPEAKERS,
    Message,
    Unlearned,
    alternating,
    cell_value,
    client_last,
    first_of,
    is_transcript,
    joined_turns,
    read_messages,
    read_prompt,
    read_text,
    read_transcript,
    reply_turns,
)
from psychocounsel.errors import UserError, words
from psychocounsel.storage.files import with_noun

Ratings = dict[str, float]

_PROMPTS = ("prompt", "question")
COMPLETIONS = ("completion", "response", "answer")
IDS = ("prefID", "id", "ID")
SYSTEM = ("system", "system_prompt")
# Columns of texts and of lists of messages, and for some the columns that another one of them replaces.
TEXTS = (*_PROMPTS, "chosen", "rejected", *COMPLETIONS, *TALKS, "replies", *SYSTEM, "role", "content")
_PAIRS_AND_TALKS = ("chosen", "rejected", "replies", *TALKS)
RIVALS = {
    "prompt": (*_PROMPTS, *TALKS),
    "completion": (*COMPLETIONS, *_PAIRS_AND_TALKS),
    "messages": ("chosen", "rejected", "replies"),
    "chosen": ("replies", *TALKS),
    "system": SYSTEM,
}
# Columns that change what a chat template writes, and that nothing here passes on.
_NOT_PASSED_ON = ("tools", "documents", "images", "videos", "audios", "chat_template_kwargs")
_LARGEST = 1e100  # of a score; sums of larger ones overflow
_MISSING = {"", "na", "n/a", "nan", "null"}  # what tables write for a missing number or word
_SCORE = "reply_score"  # a number that ranks the replies to one prompt, such as votes
_SIDE_COLUMNS = ("model", *(f"{name}_rating" for name in PRINCIPLES))
_LABELS = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "good", "high", "desirable"), True),
    **dict.fromkeys(("false", "0", "0.0", "no", "bad", "low", "undesirable"), False),
}


@dataclass
class Example:
    """Prompt with its replies, as parsed from one row.

    `where`: file and row, for messages that must not quote the text.
    `prompt`: messages that end on the client's turn. `replies`: in a pair, the chosen reply comes first.
    `ratings`: scores by principle, for each reply. `scores`: weighted mean rating of each reply, or its `reply_score`.
    `some_ratings`: the ratings of a pair that has some of the rating columns, but not all; `ratings` is then None.
    `label`: True if the single reply is good; None if the row does not say. `writers`: the writer of each reply.
    `order`: indices of the replies in the rated row, from 0. `harmful`: for each reply of a rated row, True if it is
    marked as harmful. `probability`: probability that the first reply of a pair is preferred; None if the row does not
    say. `risk`: the client's risk, unparsed. `left_out`: turns of the client after the last reply of a conversation.
    `unlearned`: turns of the therapist that are marked as not to be learned. `hint`: what reads a reply of a row without one.
    `turns`: the messages of each reply, if one has several; they alternate, and the therapist begins and ends.
    `replies` then holds what the therapist says in them.
    """

    id: str
    where: str
    prompt: list[Message]
    replies: list[str]
    ratings: list[Ratings] | None = None
    some_ratings: list[Ratings] | None = None
    rated: bool = False  # replies are unordered, and pairs are still to be made
    scores: list[float] | None = None
    label: bool | None = None
    topic: str | None = None
    writers: list[str] | None = None
    order: list[int] | None = None
    harmful: list[bool] | None = None
    probability: float | None = None
    risk: Any = None
    left_out: int = 0
    unlearned: int = 0
    hint: str = ""
    turns: list[list[Message]] | None = None

    def client_texts(self) -> list[str]:
        """Return all that the client says: in the prompt, and between the turns of each reply."""
        messages = [*self.prompt, *(message for side in self.turns or [] for message in side)]
        return [message["content"] for message in messages if message["role"] == "user"]


class UnknownColumns(UserError):
    """A row of no known format. Other names of its columns may make it one."""


def parse_row(
    row: Mapping[str, Any], where: str, rating_range: Sequence[float] = (1, 5), html: str | None = None
) -> Example:
    """Parse one row; `rating_range` holds the lowest and highest rating. `html="text"` makes text of HTML.

    Raises:
        UnknownColumns: if the row has none of the formats.
        UserError: naming the file, row and column, and never quoting the text.
    """
    row = {
        name: cell_value(value, where, name) if name in TEXTS else value
        for name, value in row.items()
        if value is not None and (name in TEXTS or not is_missing(value))
    }
    if html == "text":
        row = {name: without_html(value) if name in TEXTS else value for name, value in row.items()}
    for name in _NOT_PASSED_ON:
        if _lists_something(row.get(name)):
            raise UserError(f"{where}: {name} cannot be passed to the chat template; remove the column, or these rows")
    topic = row.get("topic")
    return replace(
        _parsed(row, where, rating_range),
        topic=topic if isinstance(topic, str) else None,
        writers=_writers(row),
        risk=row.get("risk"),
    )


def is_missing(value: Any) -> bool:
    """Return True for None, and for what tables hold in place of a number or word that is missing, such as NaN."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in _MISSING)


def _lists_something(value: Any) -> bool:
    """Return True for a list or mapping with content, also as the text of a cell."""
    if isinstance(value, str):
        return value.lstrip()[:1] in ("[", "{") and bool(value.strip("[]{} \t\n"))
    return bool(value)


def _parsed(row: Mapping[str, Any], where: str, rating_range: Sequence[float]) -> Example:
    identity = _identity(row, where)
    kind = _format(row, where)
    if kind == "rated":
        return _rated(row, where, identity, rating_range)
    if kind == "preference":
        prompt, turns = _preference(row, where)
        ratings, probability = _pair_ratings(row, where, rating_range), _probability(row, where)
        pair = replace(_replied(Example(identity, where, prompt, []), turns), probability=probability)
        if ratings is None or all(len(rated) == len(PRINCIPLES) for rated in ratings):
            return replace(pair, ratings=ratings)
        return replace(pair, some_ratings=ratings)
    if kind == "chat":
        return _conversation(row, where, identity)
    prompt = _prompt(row, where)
    if kind == "speech":
        return Example(identity, where, prompt, [])
    name = first_of(row, COMPLETIONS)
    scores = [_number(row[_SCORE], f"{where}: {_SCORE}")] if _SCORE in row else None
    example = Example(identity, where, prompt, [], scores=scores, label=_label(row, where))
    return _replied(example, [reply_turns(row[name], prompt, where, name)])


def _replied(example: Example, turns: list[list[Message]]) -> Example:
    """Return the example with replies of these turns."""
    replies = ["\n\n".join(turn["content"] for turn in reply[::2]) for reply in turns]
    return replace(example, replies=replies, turns=turns if any(len(reply) > 1 for reply in turns) else None)


def _format(row: Mapping[str, Any], where: str) -> str:
    """Return the format of a row without null columns: rated, preference, chat, demonstration or speech."""
    if "replies" in row:
        return "rated"
    if "chosen" in row or "rejected" in row:
        return "preference"
    if "messages" in row or (first_of(row, TALKS) and not first_of(row, _PROMPTS)):
        return "chat"
    if not first_of(row, _PROMPTS):
        raise UnknownColumns(f"{where}: {_missing((*_PROMPTS, 'messages'), row)}")
    return "demonstration" if first_of(row, COMPLETIONS) else "speech"


def unread_columns(row: Mapping[str, Any]) -> set[str]:
    """Return the columns with a value that `parse_row` does not read in such a row."""
    names = {str(name): value for name, value in row.items() if value is not None}
    read = {*IDS, *SYSTEM, *_NOT_PASSED_ON, "topic", "risk", "language", "", "__index_level_0__", "Unnamed: 0"}
    match _format(names, ""):
        case "rated":
            read |= {"replies"}
        case "preference":
            sides = [f"{side}_{name}" for side in ("chosen", "rejected") for name in _SIDE_COLUMNS]
            read |= {"chosen", "rejected", "chosen_probability", *sides}
        case "chat":
            return set(names) - read - {first_of(names, TALKS), "label"}
        case "demonstration":
            read |= {first_of(names, COMPLETIONS), "label", _SCORE}
    return set(names) - read - {first_of(names, _PROMPTS)}


def _conversation(row: Mapping[str, Any], where: str, identity: str) -> Example:
    """Return the last therapist's turn that is learned, with the turns before it. The turns after it are left out."""
    name = first_of(row, TALKS)
    talk = row[name]
    if isinstance(talk, str) and not is_transcript(talk):
        raise UnknownColumns(f"{where}: {name} {WITHOUT_SPEAKERS}")
    messages = read_messages(read_transcript(talk, where, name) if isinstance(talk, str) else talk, where, name)
    messages = joined_turns(messages, ("assistant",) if name == "messages" else ("user", "assistant"))
    replies = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    learned = [place for place in replies if not isinstance(messages[place], Unlearned)]
    if not learned:
        marked = f", which is not marked by {', '.join(MARKS[:4])}: 0 or false" if replies else ""
        raise UserError(f"{where}: {name} has no turn of the therapist (role assistant){marked}")
    last = learned[-1]
    prompt = _with_system(client_last(messages[:last], where), row, where)
    example = Example(identity, where, prompt, [messages[last]["content"]], label=_label(row, where))
    left_out = sum(message["role"] == "user" for message in messages[last + 1 :])
    return replace(example, left_out=left_out, unlearned=len(replies) - len(learned))


def every_turn(example: Example) -> list[Example]:
    """Return one example for each therapist's turn that follows a client's turn; the earlier turns are its prompt.

    Turns that are marked as not to be learned are prompts of later turns alone.
    """
    if example.turns and len(example.turns) == 1:
        *before, last = example.turns[0]
        example = replace(example, prompt=[*example.prompt, *before], replies=[last["content"]], turns=None)
    turns = [
        replace(
            example,
            id=f"{example.id}-{place}",
            prompt=example.prompt[:place],
            replies=[message["content"]],
            turns=None,
            left_out=0,
        )
        for place, message in enumerate(example.prompt)
        if message["role"] == "assistant"
        and place
        and example.prompt[place - 1]["role"] == "user"
        and not isinstance(message, Unlearned)
    ]
    return [*turns, example]


def _identity(row: Mapping[str, Any], where: str) -> str:
    """Return the row's own id, or its place."""
    value = next((row[name] for name in IDS if name in row), where)
    if isinstance(value, list | Mapping):
        raise UserError(f"{where}: its id is neither text nor a number")
    return str(value)


def _label(row: Mapping[str, Any], where: str) -> bool | None:
    """Return True for a good reply, False for a bad one, and None if the row does not say."""
    if "label" not in row:
        return None
    word = str(row["label"]).strip().lower()
    if word not in _LABELS:
        raise UserError(
            f"{where}: label must be true or false (or 1 and 0, yes and no, good and bad, high and low); remove or rename the "
            "column if it does not say whether the reply is good"
        )
    return _LABELS[word]


def _writers(row: Mapping[str, Any]) -> list[str] | None:
    """Return the writer of each reply; None if any writer is missing."""
    if "replies" in row:
        models = [reply.get("model") for reply in row["replies"]]
    else:
        models = [row.get(f"{side}_model") for side in ("chosen", "rejected")]
    names = [name for name in models if isinstance(name, str)]
    return names if len(names) == len(models) else None


def _rated(row: Mapping[str, Any], where: str, identity: str, rating_range: Sequence[float]) -> Example:
    prompt = _prompt(row, where)
    replies = row["replies"]
    if not isinstance(replies, list) or not all(isinstance(reply, Mapping) for reply in replies) or not replies:
        raise UserError(f"{where}: replies must be a list of {{text, ratings}}")
    turns, ratings, harmful = [], [], []
    for number, reply in enumerate(replies, 1):
        name = f"replies, reply {number}"
        turns.append(reply_turns(reply.get("text"), prompt, where, name))
        harmful.append(_flag(reply.get("harmful"), f"{where}: {name}: harmful"))
        reply_ratings = reply.get("ratings")
        if not isinstance(reply_ratings, Mapping):
            raise UserError(f"{where}: {name}: has no ratings")
        if lacking := [key for key in PRINCIPLES if reply_ratings.get(key) is None]:
            raise UserError(f"{where}: {name}: its ratings lack {', '.join(lacking)}; a reply needs all seven")
        ratings.append(
            {key: _rating(reply_ratings[key], f"{where}: {name}: ratings.{key}", rating_range) for key in PRINCIPLES}
        )
    return _replied(Example(identity, where, prompt, [], ratings, rated=True, harmful=harmful), turns)


def _preference(row: Mapping[str, Any], where: str) -> tuple[list[Message], list[list[Message]]]:
    """Return the prompt, and the turns of the chosen and of the rejected reply."""
    for name in ("chosen", "rejected"):
        if name not in row:
            raise UserError(f"{where}: has no {name}; a preference row needs prompt (or question), chosen and rejected")
    if any(name in row for name in _PROMPTS):
        prompt = _prompt(row, where)
        turns = [reply_turns(row[name], prompt, where, name) for name in ("chosen", "rejected")]
    else:
        prompt, turns = _implicit(row, where)
    if turns[0] == turns[1]:
        raise UserError(f"{where}: chosen and rejected are the same text; remove the row")
    return prompt, turns


def _implicit(row: Mapping[str, Any], where: str) -> tuple[list[Message], list[list[Message]]]:
    """Return the shared prompt, which ends on the client's turn, and the turns of both sides after it (TRL's implicit format)."""
    sessions = []
    for name in ("chosen", "rejected"):
        session = row[name]
        if isinstance(session, str) and not is_transcript(session):
            raise UnknownColumns(
                f"{where}: {_missing(_PROMPTS, row)}; chosen and rejected alone must be lists of messages or transcripts"
            )
        if isinstance(session, str):
            talk = read_messages(read_transcript(session, where, name), where, name)
            session = joined_turns(talk, ("user", "assistant"))
        sessions.append(read_messages(session, where, name))
    chosen, rejected = sessions
    shared = len(list(takewhile(lambda both: both[0] == both[1], zip(chosen, rejected, strict=False))))
    while shared and chosen[shared - 1]["role"] != "user":
        shared -= 1
    if not shared:
        raise UnknownColumns(f"{where}: chosen and rejected must begin with the same turn of the client")
    sides = {"chosen": chosen[shared:], "rejected": rejected[shared:]}
    turns = [alternating(side, where, name) for name, side in sides.items()]
    return _with_system(chosen[:shared], row, where), turns


def _pair_ratings(row: Mapping[str, Any], where: str, rating_range: Sequence[float]) -> list[Ratings] | None:
    """Return the ratings of both replies on the principles for which the row has them; None if it has none."""
    ratings = [
        {
            name: _rating(row[column], f"{where}: {column}", rating_range)
            for name in PRINCIPLES
            if (column := f"{side}_{name}_rating") in row
        }
        for side in ("chosen", "rejected")
    ]
    return ratings if any(ratings) else None


def _rating(value: Any, what: str, rating_range: Sequence[float]) -> float:
    low, high = rating_range
    rating = _number(value, what)
    if not low <= rating <= high:
        raise UserError(f"{what} must be from {low:g} to {high:g} (data.rating_range)")
    return rating


def _number(value: Any, what: str) -> float:
    number = as_number(value)
    if not math.isfinite(number):
        raise UserError(f"{what} must be a number{comma_hint(value)}")
    if abs(number) > _LARGEST:
        raise UserError(f"{what} is {number:g}: must be at most {_LARGEST:g}")
    return number


def as_number(value: Any) -> float:
    """Return a number, also of a text that spells one in the digits 0 to 9, as cells do; NaN for anything else."""
    is_other = isinstance(value, bool) or (isinstance(value, str) and (not value.isascii() or "_" in value))
    try:
        return math.nan if is_other else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def comma_hint(value: Any) -> str:
    """Return what to do about a decimal comma, as spreadsheets of some languages write it; an empty text for other values."""
    has_comma = isinstance(value, str) and re.fullmatch(r"\s*-?\d+,\d+\s*", value) is not None
    return "; write decimals with a point" if has_comma else ""


def _probability(row: Mapping[str, Any], where: str) -> float | None:
    value = row.get("chosen_probability")
    if value is None:
        return None
    probability = as_number(value)
    if not 0 <= probability <= 1:
        raise UserError(f"{where}: chosen_probability must be a number from 0 to 1")
    return probability


def _flag(value: Any, what: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{what} must be true or false")
    return bool(value)


def _missing(names: Sequence[str], row: Mapping[str, Any]) -> str:
    columns = words(", ".join(sorted(map(str, row))) or "none")  # names may be texts: a table may lack its header
    return f"needs {' or '.join(names)}; its non-empty columns are {columns}"


def _prompt(row: Mapping[str, Any], where: str) -> list[Message]:
    name = first_of(row, _PROMPTS)
    if not name:
        raise UnknownColumns(f"{where}: {_missing(_PROMPTS, row)}")
    if isinstance(row[name], str):
        prompt = read_prompt(row[name], where, name)
    else:
        prompt = client_last(read_messages(row[name], where, name), where)
    return _with_system(prompt, row, where)


def _with_system(prompt: list[Message], row: Mapping[str, Any], where: str) -> list[Message]:
    """Return the prompt with the system message of the column `system`, if the row has one."""
    name = first_of(row, SYSTEM)
    if not name or (isinstance(row[name], str) and not row[name].strip()):
        return prompt
    message = {"role": "system", "content": read_text(row[name], where, name)}
    if prompt[0]["role"] != "system":
        return [message, *prompt]
    if prompt[0] != message:
        raise UserError(f"{where}: the column {name} and the prompt have different system messages; keep one of them")
    return prompt


# Odd rows and dropped rows: they are reported, never changed.

_EMPTY_THOUGHTS = re.compile(r"\s*<think>\s*</think>")
_SHOWN = 20  # dropped rows whose reason is printed


def warn(examples: Sequence[Example], name: str, report: Callable[[str], None]) -> None:
    """Report how many rows repeat or contradict other ones, hold odd texts, or have turns that are not learned."""
    distinct = {
        (repr(example.prompt), *example.replies, repr(example.ratings) if example.rated else "") for example in examples
    }
    pairs = {
        (repr(example.prompt), *example.replies)
        for example in examples
        if len(example.replies) == 2 and not example.rated
    }
    scored = any(example.scores for example in examples if len(example.replies) == 1)  # a row is one rater's answer
    counts = {
        "are the same as an earlier one": 0 if scored else len(examples) - len(distinct),
        "prefer the reply that another row rejects": sum((row[0], row[2], row[1]) in pairs for row in pairs),
        "hold NUL bytes": sum(map(_has_nul, examples)),
        "hold nan as a text, which pandas writes for a missing one": sum(map(_has_nan, examples)),
        "hold two client turns in a row": sum(map(_has_two_turns, examples)),
        "end on turns of the client, which are left out": sum(example.left_out > 0 for example in examples),
        f"have turns marked by {', '.join(MARKS[:4])}: 0 or false, which are not learned": sum(
            example.unlearned > 0 or Unlearned in map(type, example.prompt) for example in examples
        ),
        "hold HTML, such as <p> or &nbsp;; data.html=text makes text of it": sum(map(_has_html, examples)),
        "begin a reply with an empty <think></think>, which is learned; remove it unless the model shall write it": sum(
            any(map(_EMPTY_THOUGHTS.match, example.replies)) for example in examples
        ),
    }
    for what, count in counts.items():
        if count:
            report(f"warning: {name}: {count} of {len(examples)} rows {what}")


def report_dropped(dropped: Sequence[str] | None, rows: int, name: str, report: Callable[[str], None]) -> None:
    """Report how many of `rows` rows could not be used, and the first reasons.

    Raises:
        UserError: if no row is left.
    """
    if not dropped:
        return
    if len(dropped) == rows:
        raise UserError(f"{name}: none of its rows can be used ({dropped[0]})")
    report(f"warning: {name}: {with_noun(len(dropped), 'bad row')} dropped (data.bad_rows=drop)")
    for reason in dropped[:_SHOWN]:
        report(f"  {reason}")
    if len(dropped) > _SHOWN:
        report(f"  and {len(dropped) - _SHOWN} more")


def _texts_of(example: Example) -> list[str]:
    return [*(message["content"] for message in example.prompt), *example.replies]


def _has_nul(example: Example) -> bool:
    return any("\0" in text for text in _texts_of(example))


def _has_html(example: Example) -> bool:
    return any(map(has_html, _texts_of(example)))


def _has_nan(example: Example) -> bool:
    return any(text in ("nan", "<NA>") for text in _texts_of(example))


def _has_two_turns(example: Example) -> bool:
    roles = [message["role"] for message in example.prompt]
    return any(first == second == "user" for first, second in pairwise(roles))
