"""Builds, checks and measures `data=everyday`, for its data card.

    python -m benchmarks.everyday build FOLDER        # from writers' texts: psychocounsel/data/everyday/TOPIC.jsonl
    python -m benchmarks.everyday [AGAINST ...]       # the tables of the data card; AGAINST: files that must not be near

FOLDER holds `out/TOPIC-PART.txt`, which people or language models write. A client is

    # anxiety-001 | worry | contemplation | suicidal_thoughts:stated:recent+minor:hinted:now
    what the client types
    A 5554445
    a good reply that explores
    B 4554554
    a good reply that helps to a next step
    C 2353233 !
    a poor reply

D, a second poor reply, is optional. After `#`: id, fine topic, stage of change, risks or `none`. The digits rate a reply on the
seven principles in their order; `!` marks harm. `model/TOPIC-PART.jsonl` (id, text, ratings, harmful) has replies of a small
model, and `second/*.txt` a second rater's digits (`anxiety-001 2 3343343`: the reply's place in the row, from 1).
"""

import json
import random
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import krippendorff
import numpy as np

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.data.near_duplicates import near_matches, near_pairs, sketches
from psychocounsel.data.shipped_rows import SHIPPED, everyday_rows

HOME = Path(__file__).parents[1] / "psychocounsel" / "data" / "everyday"
WRITER, SMALL = "writer", "SmolLM2-135M-Instruct"  # writers of replies, in their column `model`
GOOD, POOR = ("explores", "next_step"), "poor"  # `kind` of a reply
NEAR = 0.6  # of word 3-grams
_ACTIONS = ("none", "monitor", "same_day", "emergency")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_REPLY = re.compile(r"([ABCD]) ([1-5]{7})( !)?")
_KINDS = dict(zip("ABCD", (*GOOD, POOR, POOR), strict=True))


def words(text: str) -> list[str]:
    return _WORD.findall(text)


def good_replies(rows: Sequence[Any]) -> list[Any]:
    return [reply for row in rows for reply in row["replies"] if reply["kind"] in GOOD]


# From writers' texts to rows


def clients(text: str) -> Iterator[dict[str, Any]]:
    """Yield the clients of a writer's text, with `message` and `replies` by letter."""
    client: dict[str, Any] = {}
    lines: list[str] = []
    for line in [*text.splitlines(), "# "]:
        reply = _REPLY.fullmatch(line.rstrip())
        if not (reply or line.startswith("# ")):
            lines.append(line.rstrip())
            continue
        if client:
            part = client["replies"][-1] if client["replies"] else client
            part["text"] = "\n".join(lines).strip()
        lines = []
        if reply:
            digits = dict(zip(PRINCIPLES, map(int, reply[2]), strict=True))
            client["replies"].append({"kind": _KINDS[reply[1]], "ratings": digits, "harmful": bool(reply[3])})
        else:
            if client:
                yield client
            if line.strip() == "#":
                return
            identity, topic, stage, risks = (part.strip() for part in line[2:].split("|"))
            client = {"id": identity, "topic": topic, "stage": stage, "risks": risks, "replies": []}


def row_of(client: dict[str, Any], of_model: dict[str, Any]) -> dict[str, Any]:
    kinds = load_rubric().risk.kinds
    named = [] if client["risks"] == "none" else [risk.strip().split(":") for risk in client["risks"].split("+")]
    risk = [dict(zip(("kind", "disclosure", "recency"), parts, strict=True)) for parts in named]
    actions = [kinds[kind].expected_action[disclosure][recency] for kind, disclosure, recency in named]
    replies = [{**reply, "model": WRITER} for reply in client["replies"]]
    if (model := of_model.get(client["id"])) is not None:
        digits = dict(zip(PRINCIPLES, model["ratings"], strict=True))
        replies.append(
            {"kind": POOR, "ratings": digits, "harmful": model["harmful"], "text": model["text"], "model": SMALL}
        )
    random.Random(client["id"]).shuffle(replies)
    return {
        "id": client["id"],
        "prompt": client["text"],
        "topic": client["topic"],
        "risk": risk,
        "expected_action": max(actions, key=_ACTIONS.index, default="none"),
        "stage": client["stage"],
        "replies": [{key: reply[key] for key in ("kind", "model", "text", "ratings", "harmful")} for reply in replies],
    }


def build(folder: Path) -> None:
    of_model = {
        row["id"]: row
        for file in sorted(folder.glob("model/*.jsonl"))
        for row in map(json.loads, file.read_text().splitlines())
    }
    by_topic: dict[str, list[Any]] = defaultdict(list)
    for file in sorted(folder.glob("out/*.txt")):
        by_topic[file.stem.rpartition("-")[0]] += [row_of(client, of_model) for client in clients(file.read_text())]
    for topic, rows in by_topic.items():
        lines = (json.dumps(row, ensure_ascii=False) for row in sorted(rows, key=lambda row: row["id"]))
        (HOME / f"{topic}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    second = [
        line.split() for file in sorted(folder.glob("second/*.txt")) for line in file.read_text().splitlines() if line
    ]
    rated = [
        {"id": identity, "reply": int(place), "ratings": [*map(int, digits)]} for identity, place, digits in second
    ]
    (HOME / "second_rater.json").write_text("[\n" + ",\n".join(map(json.dumps, rated)) + "\n]\n")


# The card's tables


def counts(rows: Sequence[Any]) -> Iterator[tuple[str, str]]:
    replies = [reply for row in rows for reply in row["replies"]]
    good = good_replies(rows)
    yield "clients", f"{len(rows):,}"
    yield "replies", f"{len(replies):,}"
    yield (
        "of them by SmolLM2-135M-Instruct; harmful",
        f"{sum(reply['model'] == SMALL for reply in replies)}; {harmful(replies)}",
    )
    actions = Counter(row["expected_action"] for row in rows)
    yield (
        "expected action: none, monitor, same day, emergency",
        ", ".join(f"{actions[action]:,}" for action in _ACTIONS),
    )
    yield "messages with a question", share([("?" in row["prompt"]) for row in rows])
    yield "words in a message: least, median, most", spread([len(words(row["prompt"])) for row in rows])
    written = [reply for reply in replies if reply["model"] == WRITER]
    yield "words in a written reply: least, median, most", spread([len(words(reply["text"])) for reply in written])
    for name, some in (("good", good), ("poor, written", [reply for reply in written if reply["kind"] == POOR])):
        lengths = [len(words(reply["text"])) for reply in some]
        asking = share([reply["text"].endswith("?") for reply in some])
        yield f"{name}: median words; end with a question", f"{median(lengths):.0f}; {asking}"
    firsts = Counter(" ".join(words(reply["text"].lower())[:3]) for reply in good)
    (first, count), *_ = firsts.most_common(1)
    yield "most frequent first three words of good replies", f"{first}: {100 * count / len(good):.1f} %"
    for name, texts in (
        ("messages", [row["prompt"] for row in rows]),
        ("good replies", [reply["text"] for reply in good]),
    ):
        yield f"near-duplicates among {name} (word 3-grams, {NEAR})", str(len([*near_pairs(sketches(texts), NEAR)]))


def harmful(replies: Sequence[Any]) -> int:
    return sum(reply["harmful"] for reply in replies)


def share(values: Any) -> str:
    return f"{100 * float(np.mean(values)):.0f} %"


def spread(values: Sequence[int]) -> str:
    return f"{min(values)}, {median(values):.0f}, {max(values)}"


def agreement(rows: Sequence[Any]) -> Iterator[tuple[str, str]]:
    """Yield for each principle alpha, equal ratings and ratings within one of both raters, then the preferred replies."""
    by_id = {row["id"]: row for row in rows}
    second = json.loads((HOME / "second_rater.json").read_text())
    pairs = np.array(
        [
            [[*by_id[given["id"]]["replies"][given["reply"] - 1]["ratings"].values()], given["ratings"]]
            for given in second
        ]
    )
    for place, name in enumerate(PRINCIPLES):
        both = pairs[:, :, place].T
        alpha = krippendorff.alpha(both, level_of_measurement="ordinal", value_domain=range(1, 6))
        apart = np.abs(both[0] - both[1])
        figures = (f"{alpha:.2f}", share(apart == 0), share(apart <= 1), *(f"{side.mean():.1f}" for side in both))
        yield name, " | ".join(figures)
    means = pairs.mean(2)
    names = [given["id"] for given in second]
    gaps = [
        (means[one] - means[other])
        for one in range(len(names))
        for other in range(one)
        if names[one] == names[other] and abs(means[one, 0] - means[other, 0]) >= 1
    ]
    yield (
        "pairs with a gap of 1; the second rater prefers the same reply",
        f"{len(gaps)}; {share([gap[0] * gap[1] > 0 for gap in gaps])}",
    )


def audit(rows: Sequence[Any], folder: Path) -> str:
    data = folder / "rows.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = [sys.executable, "-m", "psychocounsel", "audit", f"data.path={data}", "data.min_gap=1", "part=all"]
    subprocess.run([*command, f"run_dir={folder / 'audit'}"], check=True, stdout=subprocess.DEVNULL)
    return (folder / "audit" / "tables.txt").read_text()


def main() -> None:
    if sys.argv[1:2] == ["build"]:
        build(Path(sys.argv[2]))
    rows = [dict(row) for _, row in everyday_rows()]
    for name, value in counts(rows):
        print(f"| {name} | {value} |")
    known = [row["prompt"] for name, data in SHIPPED.items() if name != "builtin:everyday" for _, row in data.rows()]
    others = [] if sys.argv[1:2] == ["build"] else sys.argv[1:]
    known += [json.loads(line)["prompt"] for file in others for line in Path(file).read_text().splitlines()]
    texts = [row["prompt"] for row in rows]
    print(
        f"| near one of {len(known):,} other messages | {len([*near_matches(sketches(texts), sketches(known), NEAR)])} |"
    )
    print("\n| principle | alpha | equal | within one | mean, first | mean, second |\n|---|---|---|---|---|---|")
    for name, value in agreement(rows):
        print(f"| {name} | {value} |")
    written = [row | {"replies": [reply for reply in row["replies"] if reply["model"] == WRITER]} for row in rows]
    for title, some in (("without SmolLM2's replies", written), ("with them", rows)):
        with tempfile.TemporaryDirectory() as folder:
            print(f"\n{title}\n{audit(some, Path(folder))}")


if __name__ == "__main__":
    main()
