"""Selection of examples: pairs from ratings, the held-out split, limits and mixtures. Every dropped row is reported."""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from omegaconf import DictConfig

from psychocounsel.counsel.pairs import PairRule, make_pairs, pairs_by_score, score
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.messages import Message
from psychocounsel.data.rows import Example, every_turn, report_dropped, warn
from psychocounsel.data.shared_text import components_of, hash_of, normalised, openings, reply_key
from psychocounsel.data.sources import StandardSource, advice_on, load_examples, source_of
from psychocounsel.errors import UserError, words
from psychocounsel.settings.paths import SHIPPED_DATA
from psychocounsel.storage.files import with_noun
from psychocounsel.storage.text_hashes import text_id

Report = Callable[[str], None]


def load_split(data: DictConfig, report: Report) -> tuple[list[Example], list[Example]]:
    """Load `data` and return (training examples, held-out examples), with pairs already made.

    Raises:
        UserError: for unusable rows, missing ratings that are needed, or a selection without training rows.
    """
    if data.mix and data.eval_split and not data.eval_path:
        raise UserError("data.eval_split with data.mix also needs data.eval_path, of which it is a split")
    train = _load_mix(data, report) if data.mix else _load_one(data, data.path, data.split, data.revision, report)
    if data.eval_path or data.eval_split:
        source, revision = (data.eval_path, data.eval_revision) if data.eval_path else (data.path, data.revision)
        held_out = _load_one(data, source, data.eval_split or "train", revision, report)
        given, train = train, drop_leaks(train, held_out, report)
        if given and not train:
            where = f"data.eval_path={data.eval_path}" if data.eval_path else f"data.eval_split={data.eval_split}"
            advice = "give other held-out rows, or leave it out, and data.dev_fraction holds some out"
            raise UserError(f"{where}: contains every training prompt, so no training row is left; {advice}")
        _warn_of_shared_replies(train, held_out, report)
    else:
        train, held_out = split_by_prompt(train, data.dev_fraction, data.split_seed, report)
    if data.half:
        said = list[str]()
        halves = split_by_prompt(train, 0.5, data.split_seed, said.append)
        if any(line.startswith("warning") for line in said):
            report("warning: data.half: the halves share replies or sessions, because these connect all prompts")
        train = halves[data.half == "second"]
    train = subset(train, data.limit, data.fraction, data.split_seed)
    if len(train) == 1:
        report("warning: only one training row is left")
    if not train:
        raise UserError("the selection leaves no training rows: loosen data.min_gap, data.limit or data.dev_fraction")
    return train, held_out


def prompted_rows(data: DictConfig) -> tuple[list[Example], list[Example]]:
    """Return the rows of `load_split` to whose prompts a policy replies: with `data.train_on=every` one for each turn."""
    train, held_out = load_split(data, lambda line: None)
    if data.train_on != "every":
        return train, held_out
    return [turn for row in train for turn in every_turn(row)], [turn for row in held_out for turn in every_turn(row)]


def all_rows(data: DictConfig) -> list[Example]:
    """Return every usable row of `data`, before pairs are made and before any row is dropped.

    Raises:
        UserError: for data that cannot be read.
    """
    parts = [(entry.path, entry.split, entry.revision) for entry in data.mix]
    parts = parts or [(data.path, data.split, data.revision)]
    if data.eval_path or data.eval_split:
        source, revision = (data.eval_path, data.eval_revision) if data.eval_path else (data.path, data.revision)
        parts.append((source, data.eval_split or "train", revision))
    return [row for part in parts for row in load_examples(*part, source_of(data), data.rating_range, [])]


def _load_one(data: DictConfig, path: str | None, split: str, revision: str | None, report: Report) -> list[Example]:
    dropped: list[str] | None = [] if data.bad_rows == "drop" else None
    unread = None if path in SHIPPED_DATA else set[str]()
    source = source_of(data)
    examples = load_examples(path, split, revision, source, data.rating_range, dropped, unread)
    report_dropped(dropped, len(dropped or []) + len(examples), path or data.name, report)
    if isinstance(source, StandardSource) and source.left_out:
        count = with_noun(len(source.left_out), "conversation" if data.group_by else "row")
        spelt = ", ".join(f"{column}: {value}" for column, value in data.where.items())
        report(f"{path}: {count} left out by data.where={{{spelt}}}")
    if unread:
        advice = advice_on(source, path, split, revision, unread, any(example.replies for example in examples))
        report(f"{path or data.name}: columns that are not read: {words(', '.join(sorted(unread)))}{advice}")
        examples = [example if example.replies else replace(example, hint=advice) for example in examples]
    warn(examples, path or data.name, report)
    return with_soft_labels(pairs_of(examples, data, path or data.name, report), data.soft_labels)


def _load_mix(data: DictConfig, report: Report) -> list[Example]:
    """Take rows of each entry of `data.mix`; with weights, as many rows as possible in these proportions without repeats."""
    sources = [_load_one(data, entry.path, entry.split, entry.revision, report) for entry in data.mix]
    wanted = [entry.rows for entry in data.mix]
    if data.mix[0].weight:
        whole = sum(entry.weight for entry in data.mix)
        shares = [entry.weight / whole for entry in data.mix]
        total = min(len(source) / share for source, share in zip(sources, shares, strict=True))
        wanted = [int(total * share + 1e-9) for share in shares]
    mixed = []
    for entry, source, rows in zip(data.mix, sources, wanted, strict=True):
        if rows > len(source):
            raise UserError(f"data.mix: {entry.name or entry.path} has {len(source)} rows, not the {rows} asked for")
        mixed += subset(source, rows, None, data.split_seed)
        report(f"{entry.name or entry.path}: {rows} of {len(source)} rows")
    return mixed


def pairs_of(examples: list[Example], data: DictConfig, path: str, report: Report) -> list[Example]:
    """Return pairs by `data.min_gap`, `min_chosen`, `principle_weights` and `safety_veto`, with `scores` where rated.

    Rated replies, and replies with a `reply_score`, are made into pairs. If one of these settings is on, the ratings of
    given pairs are checked as well: such a pair may be dropped or change sides. Otherwise given rows are kept.

    Raises:
        UserError: if a row lacks ratings that these settings need, or if no pair is left.
    """
    weights, veto = {name: data.principle_weights.get(name, 1.0) for name in PRINCIPLES}, data.safety_veto
    switches = {
        "data.min_gap=null": data.min_gap is not None,
        "data.min_chosen=null": data.min_chosen is not None,
        "equal data.principle_weights": len(set(weights.values())) > 1,
        "data.safety_veto=false": veto,
    }
    selective, off = any(switches.values()), ", ".join(switch for switch, on in switches.items() if on)
    rule = PairRule(data.pairs, data.min_gap or 0.0, data.gap)
    dropped, relabelled = Counter[str](), 0
    scored = [example for example in examples if example.scores and len(example.replies) == 1]
    others = [example for example in examples if not scored or len(example.replies) > 1]
    dropped["their reply has no reply_score"] = len(examples) - len(scored) - len(others)
    needing_ratings = [switch for switch, on in switches.items() if on and switch != "data.min_gap=null"]
    if scored and needing_ratings:
        raise UserError(f"{scored[0].where}: has a reply_score, but no ratings: use {', '.join(needing_ratings)}")
    kept = _by_score(scored, rule, dropped)
    for example in others:
        if not (example.rated or selective):
            kept.append(example)
            continue
        if example.ratings is None:
            raise UserError(f"{example.where}: lacks ratings (chosen_empathy_rating, ...): use {off}, or rated data")
        selection = make_pairs(example.ratings, rule, weights, veto)
        dropped["their prompt has one reply only"] += len(example.replies) < 2
        dropped["their scores are equal"] += selection.ties
        dropped["gap below data.min_gap"] += selection.too_close
        dropped["the reply with the higher score is rated less safe"] += selection.unsafe
        texts = example.turns or example.replies
        different = [pair for pair in selection.pairs if texts[pair[0]] != texts[pair[1]]]
        dropped["their replies are the same text"] += len(selection.pairs) - len(different)
        usable = [pair for pair in different if not (example.harmful and example.harmful[pair[0]])]
        dropped["the reply with the higher score is marked harmful"] += len(different) - len(usable)
        if data.min_chosen is not None:
            good = [pair for pair in usable if score(example.ratings[pair[0]], weights) >= data.min_chosen]
            dropped["the reply with the higher score is below data.min_chosen"] += len(usable) - len(good)
            usable = good
        relabelled += sum(not example.rated and pair == (1, 0) for pair in usable)
        kept += [_pair(example, *pair) for pair in usable]
    for reason, count in dropped.items():
        if count:
            report(f"{path}: {with_noun(count, 'pair')} dropped ({reason})")
    if examples and not kept:
        raise UserError(f"{path}: none of its pairs is left ({dropped.most_common(1)[0][0]})")
    if relabelled:
        report(
            f"{path}: {with_noun(relabelled, 'pair')} changed sides, because their ratings prefer the other reply ({off} keeps "
            "labels)"
        )
    return [
        replace(example, scores=[score(ratings, weights) for ratings in example.ratings])
        if example.ratings
        else example
        for example in kept
    ]


def _by_score(examples: Sequence[Example], rule: PairRule, dropped: Counter[str]) -> list[Example]:
    """Return pairs of replies to the same prompt: the reply with the higher `reply_score` is the chosen one.

    A reply in several rows, as several raters write them, has the mean of their scores. `dropped` counts pairs that are not
    made, by reason.
    """
    by_prompt: dict[str, dict[str, list[Example]]] = {}
    for example in examples:
        by_prompt.setdefault(normalised(example.prompt), {}).setdefault(example.replies[0], []).append(example)
    pairs = []
    for rows_by_reply in by_prompt.values():
        rows = [same_reply[0] for same_reply in rows_by_reply.values()]
        scores = [
            fmean(score for row in same_reply for score in row.scores or ()) for same_reply in rows_by_reply.values()
        ]
        made = pairs_by_score(scores, rule)
        dropped["their prompt has one reply only"] += len(rows) < 2
        dropped["their scores are equal"] += made.ties
        dropped["gap below data.min_gap"] += made.too_close
        pairs += [
            replace(
                rows[chosen],
                id=f"{rows[chosen].id}-{rows[rejected].id}",
                replies=[*rows[chosen].replies, *rows[rejected].replies],
                turns=_turns_of(rows[chosen], rows[rejected]),
                scores=[scores[chosen], scores[rejected]],
                label=None,
            )
            for chosen, rejected in made.pairs
        ]
    return pairs


def _turns_of(*rows: Example) -> list[list[Message]] | None:
    """Return the turns of the rows' single replies; None if each has one turn."""
    if not any(row.turns for row in rows):
        return None
    return [row.turns[0] if row.turns else [{"role": "assistant", "content": row.replies[0]}] for row in rows]


def _pair(example: Example, chosen: int, rejected: int) -> Example:
    assert example.ratings is not None
    identity = f"{example.id}-{chosen}-{rejected}" if example.rated else example.id
    sides = (chosen, rejected)
    return replace(
        example,
        id=identity,
        replies=[example.replies[side] for side in sides],
        ratings=[example.ratings[side] for side in sides],
        writers=[example.writers[side] for side in sides] if example.writers else None,
        turns=[example.turns[side] for side in sides] if example.turns else None,
        order=list(sides) if example.rated else None,
        rated=False,
        harmful=None,
        probability=None if example.probability is None else abs(chosen - example.probability),
    )


def split_by_prompt(
    examples: list[Example], fraction: float, seed: int, report: Report = print
) -> tuple[list[Example], list[Example]]:
    """Hold out `fraction` of the prompts (at least one if there are several), independent of the order of rows.

    No prompt is in both parts. Prompts that share a reply or a session, directly or through others, form a component
    and stay together, so the held-out part may be smaller than requested, or larger if every component is larger. If
    all prompts form one component, it is split anyway, and a warning says so.
    """
    keys = [normalised(example.prompt) for example in examples]
    prompts = sorted(set(keys), key=lambda text: rank(text, seed, "split"))
    count = max(round(fraction * len(prompts)), 1 if fraction and len(prompts) > 1 else 0)
    component = dict(zip(keys, components_of(examples).tolist(), strict=True)) if count else {}
    held = _held_out(prompts, component, count) if count else set()
    if count and not held:
        held = set(prompts[:count])
        report(
            "warning: held-out prompts share replies or sessions with training rows, because these connect all prompts"
        )
    elif len(held) != count:
        report(
            f"{with_noun(len(held), 'prompt is', 'prompts are')} held out, not {count}: prompts that share a reply or a session "
            "stay together"
        )
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example, key in zip(examples, keys, strict=True):
        parts[key in held].append(example)
    return parts


def _held_out(prompts: list[str], component: dict[str, int], count: int) -> set[str]:
    """Return the prompts of whole components, taken in the order of `prompts`, at most `count` in total.

    If every component is larger than `count`, the smallest one is taken, unless it holds more than half of the prompts.
    """
    members: dict[int, list[str]] = {}
    for prompt in prompts:
        members.setdefault(component[prompt], []).append(prompt)
    held = set[str]()
    for together in members.values():
        if len(held) + len(together) <= count:
            held.update(together)
    smallest = min(members.values(), key=len)
    return held or set(smallest if 2 * len(smallest) <= len(prompts) else [])


def subset(examples: list[Example], limit: int | None, fraction: float | None, seed: int) -> list[Example]:
    """Return the first `limit` rows, or the rows of the first `fraction` of prompts, of one fixed shuffle.

    The shuffle does not depend on `limit` or `fraction`, so a smaller subset is part of every larger one.
    """
    if limit is None and fraction is None:
        return examples
    prompts = [normalised(example.prompt) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: (rank(prompts[index], seed, "subset"), index))
    if limit is not None:
        return [examples[index] for index in order[:limit]]
    assert fraction is not None
    ranked = list(dict.fromkeys(prompts[index] for index in order))
    kept = set(ranked[: math.ceil(fraction * len(ranked))])
    return [examples[index] for index in order if prompts[index] in kept]


def drop_leaks(train: list[Example], held_out: list[Example], report: Report) -> list[Example]:
    """Return the training rows whose prompt is not in the held-out part, and whose session is not continued there."""
    held = {hash_of(row.prompt) for row in held_out}
    begun = {opening for row in held_out for opening in openings(row.prompt)}
    others = [row for row in train if hash_of(row.prompt) not in held]
    if len(others) < len(train):
        report(f"{with_noun(len(train) - len(others), 'training row')} dropped (their prompt is in the held-out data)")
    kept = [row for row in others if hash_of(row.prompt) not in begun and held.isdisjoint(openings(row.prompt))]
    if len(kept) < len(others):
        report(
            f"{with_noun(len(others) - len(kept), 'training row')} dropped (other turns of their session are in the held-out "
            "data)"
        )
    return kept


def _warn_of_shared_replies(train: list[Example], held_out: list[Example], report: Report) -> None:
    known = {reply_key(reply) for row in train for reply in row.replies}
    shared = sum(not known.isdisjoint(map(reply_key, row.replies)) for row in held_out)
    if shared:
        report(f"warning: {shared} of {len(held_out)} held-out rows share a reply with training rows")


_TEST_SPEECHES = Path(__file__).parent / "test_speeches.yaml"


def drop_test_speeches(train: list[Example], report: Report) -> list[Example]:
    """Return the training rows without a speech that `evaluation=safety` or `session` measures on.

    test_speeches.yaml has the `speech_hash` of each.

    Raises:
        UserError: if no row is left.
    """
    known = set(re.findall(r'^- "(\w+)"', _TEST_SPEECHES.read_text(), re.MULTILINE))
    kept = [example for example in train if known.isdisjoint(map(speech_hash, example.client_texts()))]
    if len(kept) < len(train):
        report(
            f"{with_noun(len(train) - len(kept), 'training row')} dropped (evaluation=safety or session measures on their "
            "speeches)"
        )
    if not kept:
        raise UserError("data: evaluation=safety or session measures on all speeches; train on other data")
    return kept


def speech_hash(text: str) -> str:
    """Return the hash of a client's turn [16 hexadecimal digits]; case and spacing do not count."""
    return text_id(normalised([{"role": "user", "content": text}]))


# A fixed pseudo-random order: it depends on the seed only, not on the machine or the order of rows.


def rank(text: str, seed: int, purpose: str) -> str:
    """Return the sort key of `text`; each purpose has its own order."""
    return hashlib.sha256(f"{purpose}:{seed}:{text}".encode()).hexdigest()


# `data.soft_labels`: probabilities that chosen replies are preferred, from the column `chosen_probability`.


def with_soft_labels(rows: Sequence[Example], wanted: bool) -> list[Example]:
    """Return the rows with their soft labels if `wanted`, otherwise without.

    Raises:
        UserError: naming the first row without a soft label, if `wanted`.
    """
    if not wanted:
        return [row if row.probability is None else replace(row, probability=None) for row in rows]
    for row in rows:
        if row.probability is None:
            raise UserError(
                f"{row.where}: data.soft_labels=true reads the column chosen_probability, which it lacks: add it, or leave "
                "data.soft_labels out"
            )
    return list(rows)


def refuse_sessions(examples: Sequence[Example], reader: str) -> None:
    """Refuse rows whose replies have several turns; `reader` (a command or key) compares single replies.

    Raises:
        UserError: naming the first such row.
    """
    for example in examples:
        if example.turns:
            raise UserError(
                f"{example.where}: a reply has several turns, and {reader} reads single replies: put the shared turns into "
                "prompt, and one turn into each reply"
            )


def no_pairs(command: str) -> UserError:
    """Return the error that `command` (audit or evaluate) raises if the selected rows are not pairs."""
    return UserError(
        f"there are no pairs to {command}: each row needs a chosen and a rejected reply, and part=held_out a held-out split; "
        "part=all takes all rows"
    )
