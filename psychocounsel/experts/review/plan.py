"""Plan of a review: its items and each expert's order. It is made once and read whenever the page is served."""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from psychocounsel.data.rows import is_missing
from psychocounsel.data.sources import StandardSource, read_rows
from psychocounsel.errors import UserError
from psychocounsel.experts.items.candidates import (
    Drawn,
    ItemCandidate,
    Shown,
    assign,
    draw_evenly,
    draw_items,
    sequence,
)
from psychocounsel.experts.items.crisis_set import SHIPPED_SET, CrisisSetKind
from psychocounsel.experts.items.gate_cases import GateKind
from psychocounsel.experts.items.kind import ItemKind
from psychocounsel.experts.items.pairs import PairKind
from psychocounsel.experts.review.log import PRIVATE
from psychocounsel.experts.settings import MOST_ITEMS, ReviewOptions
from psychocounsel.rundir.paths import ReviewDir
from psychocounsel.storage.csv_tables import cell_text
from psychocounsel.storage.files import expanded, json_lines, read_mapping, with_noun, write_atomically, write_json

# The plan

_FIXED = ("items", "overlap", "repeats", "seed", "draw", "flagged", "only")  # fixed once experts have links
_EARLIER = {"review.draw": "risk_first"}  # plans of earlier versions do not store it


@dataclass(frozen=True)
class ReviewPlan:
    """The plan: `items` by id, `shown` in order by expert, `tokens` (secret part of the link) by expert."""

    kind: ItemKind
    items: dict[str, ItemCandidate]
    shown: dict[str, list[Shown]]
    tokens: dict[str, str]


def open_plan(config: Any, files: ReviewDir, say: Callable[[str], None]) -> ReviewPlan:
    """Return the plan stored in `files`, or make and store a new one.

    Raises:
        UserError: if `config` asks for another plan than the stored one, or if there is nothing to review.
    """
    known, kind = read_mapping(files.plan), kind_of(config.data, files)
    wanted = _settings(config)
    if not known:
        return _new_plan(kind, config, files, wanted, say)
    plan, experts = _stored(kind, files, known), list(known["settings"]["experts"])
    if config.review.overlap is None and wanted["experts"][: len(experts)] == experts != wanted["experts"]:
        plan = _with_more_experts(plan, wanted["experts"], config.review)
        _write(plan, files, wanted)
        known = read_mapping(files.plan)
    for key, value in wanted.items():
        if (was := known["settings"].get(key, _EARLIER.get(key))) != value:
            raise UserError(
                f"{key}: {files.path} holds a review with {key}={_typed(was)}; give that value, or out=ANOTHER_FOLDER"
            )
    return plan


def _stored(kind: ItemKind, files: ReviewDir, known: Mapping[str, Any]) -> ReviewPlan:
    """Return the plan that `known`, the content of its file, describes together with the items and the experts' links."""
    try:
        items = {row["item"]: kind.item(row) for row in _rows(files.items)}
        shown = {name: [Shown(*entry) for entry in entries] for name, entries in known["shown"].items()}
        links = read_mapping(files.links)
        plan = ReviewPlan(kind, items, shown, {name: str(links[name]) for name in shown})
        if {*known["settings"]["experts"]} != shown.keys() or not {*_items(plan)} <= items.keys():
            raise ValueError("experts or items are missing")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        names = f"{files.plan.name}, {files.items.name} and {files.links.name}"
        raise UserError(f"{files.path}: {names} do not hold the same review; restore them from a copy") from error
    return plan


def _items(plan: ReviewPlan) -> Iterator[str]:
    return (entry.item for order in plan.shown.values() for entry in order)


def _typed(value: Any) -> str:
    return f"[{','.join(value)}]" if isinstance(value, list) else "null" if value is None else str(value)


def _with_more_experts(plan: ReviewPlan, experts: list[str], options: Any) -> ReviewPlan:
    """Return the plan with new experts, possible only if everyone sees all items. Earlier experts keep their order."""
    shown, tokens, everything = dict(plan.shown), dict(plan.tokens), list(plan.items.values())
    _refuse_missing([expert for expert in experts if expert not in shown])
    for number, expert in enumerate(experts):
        if expert not in shown:
            shown[expert] = sequence(everything, options.repeats, options.seed, number)
            tokens[expert] = secrets.token_urlsafe(24)
    return ReviewPlan(plan.kind, plan.items, shown, tokens)


def _write(plan: ReviewPlan, files: ReviewDir, settings: Mapping[str, Any]) -> None:
    write_json(files.links, plan.tokens, mode=PRIVATE)
    entries = {name: [[entry.item, entry.repeat, entry.left] for entry in order] for name, order in plan.shown.items()}
    content = {"kind": plan.kind.name, "settings": settings, "shown": entries}
    write_json(files.plan, content, mode=PRIVATE)  # written last, because it marks the plan as complete


def _settings(config: Any) -> dict[str, Any]:
    fixed = {f"review.{name}": config.review[name] for name in _FIXED}
    return {"data": place_of(config.data), "experts": list(config.experts), **fixed}


def _new_plan(
    kind: ItemKind, config: Any, files: ReviewDir, settings: Mapping[str, Any], say: Callable[[str], None]
) -> ReviewPlan:
    options, experts = config.review, list(config.experts)
    _refuse_missing(experts)
    wanted = _wanted(kind, config, say)
    draw = draw_evenly if options.draw == "even" else draw_items
    drawn = draw(wanted, options["items"], options.seed)
    if len(drawn) < options["items"] < MOST_ITEMS:
        all_drawn = with_noun(len(drawn), "candidate exists, and it is", "candidates exist, and all of them are")
        say(f"review.items={options['items']}: only {all_drawn} drawn")
    items = {item.candidate.item: item.candidate for item in drawn}
    own = assign(list(items), experts, options.overlap or len(experts), options.seed)
    shown = {
        expert: sequence([items[item] for item in own[expert]], options.repeats, options.seed, number)
        for number, expert in enumerate(experts)
    }
    tokens = {expert: secrets.token_urlsafe(24) for expert in experts}
    write_atomically(files.items, json_lines(map(_row, drawn)), mode=PRIVATE)
    plan = ReviewPlan(kind, items, shown, tokens)
    _write(plan, files, settings)
    say(kind.drawn_line(drawn, len(wanted)))
    return plan


def _refuse_missing(experts: Sequence[str]) -> None:
    """Refuse pseudonyms that `agreement` and other readers of tables take for a missing value."""
    if name := next(filter(is_missing, experts), None):
        raise UserError(f"experts: tables write {name} for a missing value; give another pseudonym, for instance e01")


def _wanted(kind: ItemKind, config: Any, say: Callable[[str], None]) -> list[ItemCandidate]:
    """Return the candidates selected by `review.flagged` and `review.only`."""
    data, options = expanded(config.data), config.review
    candidates = list(kind.candidates(config.data))
    if options.flagged:
        candidates = [candidate for candidate in candidates if candidate.flags]
        if not candidates:
            raise UserError(f"review.flagged=true: {data} has no doubtful preference")
    if options.only:
        if not expanded(options.only).is_file():
            raise UserError(f"review.only={options.only}: no such file; give a table with the column item")
        ids = set[str]()
        for _, row in read_rows(StandardSource(), str(expanded(options.only)), "train", None):
            if isinstance(row, UserError):
                raise row
            ids.add(cell_text(str(row.get("item"))))
        candidates = [candidate for candidate in candidates if candidate.item in ids]
        say(f"review.only={options.only}: {len(candidates):,} of its {len(ids):,} items are in {data}")
        if not candidates:
            raise UserError(f"review.only={options.only}: its column `item` names no item of {data}")
    return candidates


def _row(drawn: Drawn) -> dict[str, Any]:
    return {**asdict(drawn.candidate), "stratum": drawn.stratum, "share": drawn.share}


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read; restore it from a copy") from error


def version_of(text: str) -> str:
    """Return the version of a consent text, a hash of its words."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


# The kind of items: that of the plan if it exists, otherwise that of the data

_KINDS: tuple[ItemKind, ...] = (CrisisSetKind(), GateKind(), PairKind())  # pairs last, because they take all other data


def kind_of(data: str, files: ReviewDir) -> ItemKind:
    """Return the kind of the review in `files`, or of `data` if no review exists.

    Raises:
        UserError: if the plan names an unknown kind.
    """
    if plan := read_mapping(files.plan):
        name = plan.get("kind", PairKind.name)
        if (stored := next((kind for kind in _KINDS if kind.name == name), None)) is None:
            raise UserError(
                f"{files.plan}: the kind of its items is unknown to this version; restore the file from a copy"
            )
        return stored
    return next(kind for kind in _KINDS if kind.holds(data))


def place_of(data: str) -> str:
    """Return the absolute path of `data`, or the name of the shipped crisis set."""
    return data if data == SHIPPED_SET else str(expanded(data).absolute())


def fill_in_options(config: Any, line: Sequence[str], kind: ItemKind) -> None:
    """Fill in options that depend on the kind.

    Raises:
        UserError: if `line` sets an option without effect on items of this kind.
    """
    typed, defaults = {text.partition("=")[0] for text in line}, ReviewOptions()
    for name in kind.without_effect:
        if f"review.{name}" in typed or config.review[name] != getattr(defaults, name):
            raise UserError(f"review.{name}: no effect on {kind.what}; leave it out")
    if kind.draws_all and "review.items" not in typed:
        config.review["items"] = MOST_ITEMS
    if "practice" in kind.without_effect:
        config.review.practice = 0
    if config.review.title is None:
        config.review.title = kind.texts.title
