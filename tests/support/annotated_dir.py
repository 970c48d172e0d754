"""Small annotate directory with all its tables, built row by row. Every text contains the mark of its client."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psychocounsel.annotation.speeches.tables import DROPPED
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.remote.journal import Journal, request_key
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.storage.files import write_json
from tests.support.annotation_tables import annotation_dir, reply, speech, vote

Row = dict[str, Any]

SIDES = ("chosen", "rejected")


def id_of(client: int) -> str:
    return hashlib.sha256(f"client {client}".encode()).hexdigest()[:16]


def double_of(client: int) -> str:
    """Return the id of a speech that was dropped as a near duplicate of the client's speech."""
    return hashlib.sha256(f"double {client}".encode()).hexdigest()[:16]


def text_of(client: int) -> str:
    """Return the client's mark: a word in every text of this client and in no text of other clients."""
    return f"Zq{client:03d}x"


def annotated(path: Path, clients: Iterable[int], **changes: Any) -> AnnotationDir:
    """Write speeches with three rated replies each, a journal, and the dataset. `changes` sets columns of every speech."""
    known = list(clients)
    path.mkdir(parents=True)
    speeches, replies, votes = list[Row](), list[Row](), list[Row]()
    for client in known:
        about = {
            "split": "test" if client % 5 == 4 else "train",
            "topic": ("grief", "work")[client % 2],
            "identifiers": client % 3,
        }
        speeches.append(speech(id_of(client), f"I am {text_of(client)}, and I feel alone.", **{**about, **changes}))
        for number in range(3):
            words = f"Reply {number} to {text_of(client)}: what would help you now?" + " Take your time." * number
            replies.append(reply(id_of(client), number, words, model=f"model-{number}", terms="apache-2.0"))
            ratings = [1 + (client + number + place) % 5 for place in range(7)]
            votes.append(vote(id_of(client), replies[-1]["reply"], ratings, model="judge-1", prompt_version="v"))
    votes.sort(key=lambda row: (row["speech"], row["reply"]))
    files = annotation_dir(path, speeches, replies, votes)
    files.dataset.mkdir()
    for split in ("train", "test"):
        rows = [
            row
            for each in sorted(speeches, key=lambda row: row["speech"])
            if each["split"] == split
            for row in pairs(each, replies)
        ]
        pq.write_table(
            pa.Table.from_pylist(rows, dataset_schema()), files.dataset / f"{split}.parquet", row_group_size=5
        )
    doubles = [
        {
            "source": "test",
            "row": str(client),
            "reason": "near duplicate",
            "speech": double_of(client),
            "of": id_of(client),
        }
        for client in known
    ]
    short = {**doubles[0], "reason": "too short", "speech": None, "of": None}
    pq.write_table(pa.Table.from_pylist([*doubles, short], DROPPED), files.dropped_speeches)
    write_journal(files, known)
    files.identifier_sample.write_text("".join(f"## {id_of(client)}\n\nI am {text_of(client)}.\n" for client in known))
    files.steps.mkdir()
    write_json(
        files.step("pairs"),
        {"step": "pairs", "fingerprint": "f", "figures": {"train": {"pairs": 1, "agreement": {"unanimous": 1}}}},
    )
    return files


def dataset_schema() -> pa.Schema:
    texts = ("question", *SIDES, "chosen_model", "rejected_model")
    columns: list[Any] = [("ID", pa.string()), ("prefID", pa.int64()), *((name, pa.string()) for name in texts)]
    columns += [(f"{side}_{name}_rating", pa.int64()) for side in SIDES for name in PRINCIPLES]
    columns += [("chosen_probability", pa.float64())]
    columns += [(name, pa.string()) for name in ("agreement", "topic", "risk", "source", "license", "language")]
    return pa.schema(columns)


def pairs(of: Row, replies: list[Row]) -> list[Row]:
    """Return pairs in which each later reply is preferred to the first one. `prefID` is derived from the client's id."""
    own = [row for row in replies if row["speech"] == of["speech"]]
    rows = []
    for number, chosen in enumerate(own[1:]):
        row = {"ID": of["speech"], "prefID": int(of["speech"][:8], 16) + number, "question": of["text"]}
        row |= {
            "chosen": chosen["text"],
            "rejected": own[0]["text"],
            "chosen_probability": 1.0,
            "agreement": "unanimous",
        }
        row |= {"chosen_model": chosen["model"], "rejected_model": own[0]["model"]}
        for place, name in enumerate(PRINCIPLES):
            row |= {f"chosen_{name}_rating": 3 + (place + number) % 3, f"rejected_{name}_rating": 1 + place % 3}
        rows.append(row | {name: of[name] for name in ("topic", "risk", "source", "license", "language")})
    return rows


def write_journal(files: AnnotationDir, clients: list[int]) -> None:
    for part in ("replies", "scores"):
        journal = Journal(files.answers / part)
        for client in clients:
            journal.add(request_key(part, client), {"text": f"An answer to {text_of(client)}."}, about=id_of(client))
        journal.close()


def rows_of(path: Path) -> list[Row]:
    return list(pq.read_table(path).to_pylist())


def words_of(folder: Path) -> str:
    """Return the content of all files of a folder, including tables, as one text."""
    parts = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".parquet":
            parts.append(repr(rows_of(path)))
        elif path.is_file():
            parts.append(path.read_bytes().decode(errors="replace"))
    return "\n".join(parts)
