"""The step `speeches` on real files: kept and dropped speeches, reasons, and the resulting table."""

import gzip
import hashlib
import json
import stat
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from psychocounsel.data.shipped_rows import sample_rows
from psychocounsel.errors import UserError
from tests.annotation.speeches.speech_files import LONG, jsonl, made, table
from tests.support.preferences import text

COLUMNS = (
    "speech text source row license language topic fine_topic risk risk_source crisis split identifiers".split()  # noqa: SIM905
)

GERMAN = (
    "Ich kann seit Wochen nicht mehr schlafen und weiss nicht, wie ich es meiner Familie sagen soll, die so viel will."
)


def some(number: int, words: int = 40) -> str:
    return text(np.random.default_rng(number), words) + "."


@pytest.fixture
def two_sources(tmp_path: Path) -> dict[str, Path]:
    """A forum, and a collection with some of the forum's speeches, copied exactly or almost exactly."""
    forum = [{"id": f"f{number}", "question": some(number)} for number in range(12)]
    near = some(3).split()
    near[7] = "else"
    others = [
        {"id": "same", "prompt": f"  {some(0).upper()} "},
        {"id": "near", "prompt": " ".join(near)},
        {"id": "new", "prompt": LONG},
        {"id": "short", "prompt": "Help."},
        {"id": "long", "prompt": some(51, 400)},
        {
            "id": "german",
            "prompt": GERMAN,
        },
    ]
    return {"forum": jsonl(tmp_path / "forum.jsonl", forum), "others": jsonl(tmp_path / "others.jsonl", others)}


def test_what_stays_and_what_falls_for_which_reason(tmp_path: Path, two_sources: dict[str, Path]) -> None:
    sources = [{"name": name, "path": str(path), "license": "cc0-1.0"} for name, path in two_sources.items()]
    figures, files, said = made(tmp_path / "out", sources=sources, languages=None)
    rows = table(files.speeches)
    kept = {(row["source"], row["row"]) for row in rows}
    assert kept == {("forum", f"f{number}") for number in range(12)} | {("others", "new"), ("others", "german")}
    assert pq.read_schema(files.speeches).names == COLUMNS
    assert [row["speech"] for row in rows] == sorted(row["speech"] for row in rows)
    ids = {row["row"]: row["speech"] for row in rows}
    for row in rows:
        plain = " ".join(row["text"].casefold().split())
        assert row["speech"] == hashlib.sha256(plain.encode()).hexdigest()[:16]
    dropped = {row["row"]: (row["reason"], row["of"]) for row in table(files.dropped_speeches)}
    assert dropped == {
        "same": ("same text", ids["f0"]),
        "near": ("near duplicate", ids["f3"]),
        "short": ("too short", None),
        "long": ("too long", None),
    }
    assert figures["sources"]["others"] == {
        "rows": 6,
        "kept": 2,
        "fell": {"too short": 1, "too long": 1, "same text": 1, "near duplicate": 1},
    }
    assert said[0].split() == [
        "source",
        "rows",
        "kept",
        "too",
        "short",
        "too",
        "long",
        "same",
        "text",
        "near",
        "duplicate",
    ]
    assert said[2].split() == ["others", "6", "2", "1", "1", "1", "1"]


def test_the_earlier_source_wins(tmp_path: Path, two_sources: dict[str, Path]) -> None:
    sources = [{"path": str(two_sources[name]), "language": "en"} for name in ("others", "forum")]
    _, files, _ = made(tmp_path / "out", sources=sources)
    assert {"same", "near"} <= {row["row"] for row in table(files.speeches)}
    assert {row["row"] for row in table(files.dropped_speeches) if row["of"]} == {"f0", "f3"}


def test_a_language_that_is_not_wanted_falls(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": GERMAN}, {"text": LONG}])
    _, files, _ = made(tmp_path / "out", path=str(path))
    assert [row["language"] for row in table(files.speeches)] == ["en"]
    assert [row["reason"] for row in table(files.dropped_speeches)] == ["language"]


def test_conversations_of_one_id_in_two_files_are_those_of_two_clients(tmp_path: Path) -> None:
    """The step looks for near duplicates between clients only, and puts all speeches of one client into one split."""
    (tmp_path / "talks").mkdir()
    for number in range(6):
        said = some(min(number, 4)) + (" Again." if number == 5 else "")  # the last file nearly repeats the one before
        jsonl(tmp_path / "talks" / f"{number}.jsonl", [{"id": 1, "messages": [{"role": "user", "content": said}]}])
    figures, files, _ = made(tmp_path / "out", path=str(tmp_path / "talks"), turns="every", languages=None)
    assert figures["sources"]["talks"]["fell"] == {"near duplicate": 1}
    assert {row["split"] for row in table(files.speeches)} == {"train", "test"}
    assert {row["row"] for row in table(files.speeches)} == {f"{number}.jsonl 1" for number in range(5)}


def test_the_same_speeches_from_every_format(tmp_path: Path) -> None:
    rows = [{"question": some(number)} for number in range(5)]
    arrow = pa.Table.from_pylist(rows)
    pq.write_table(arrow, tmp_path / "a.parquet")
    pc.write_csv(arrow, tmp_path / "a.csv")
    (tmp_path / "a.json").write_text("[" + ",".join(f'{{"question": "{row["question"]}"}}' for row in rows) + "]")
    jsonl(tmp_path / "a.jsonl", rows)
    jsonl(tmp_path / "chat.jsonl", [_conversation(row["question"]) for row in rows])
    Dataset.from_list(rows).save_to_disk(tmp_path / "folder")
    talks = [_conversation(row["question"])["messages"] for row in rows]
    pc.write_csv(pa.Table.from_pylist([{"messages": json.dumps(talk)} for talk in talks]), tmp_path / "chat.csv")
    shared = [[{"from": message["role"], "value": message["content"]} for message in talk] for talk in talks]
    jsonl(tmp_path / "shared.jsonl", [{"conversations": talk} for talk in shared])
    spoken = [f"Client: Hello.\nTherapist: Hello.\nClient: {row['question']}" for row in rows]
    jsonl(tmp_path / "spoken.jsonl", [{"dialogue": text} for text in spoken])
    found = []
    tables = ("a.jsonl", "a.parquet", "a.csv", "a.json", "folder")
    for name in (*tables, "chat.jsonl", "chat.csv", "shared.jsonl", "spoken.jsonl"):
        _, files, _ = made(tmp_path / f"out-{name}", path=str(tmp_path / name), language="en")
        found.append([(row["speech"], row["text"], row["split"]) for row in table(files.speeches)])
    assert len(found[0]) == 5 and all(each == found[0] for each in found)


def test_what_datasets_makes_of_a_source_is_gone_with_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copies of `datasets` contain identifiers, and a removal would not find them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    arrow = pa.Table.from_pylist([{"question": f"My name is Tom Baker. {LONG}"}])
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "a.csv", tmp_path / "b.tsv", tmp_path / "folder" / "train.csv"):
        pc.write_csv(arrow, path, pc.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ","))
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress((tmp_path / "a.csv").read_bytes()))
    sources = [{"path": str(tmp_path / name)} for name in ("a.csv", "b.tsv", "c.csv.gz", "folder")]
    killed = tmp_path / "out" / ".speeches-killed.tmp" / "copies"
    killed.mkdir(parents=True)
    (killed / "a.arrow").write_text("Baker")
    figures, _, _ = made(tmp_path / "out", sources=sources)
    assert [each["rows"] for each in figures["sources"].values()] == [1] * 4
    left = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(tmp_path / "folder")]
    assert {path.name for path in left if path.parent == tmp_path} == {"a.csv", "b.tsv", "c.csv.gz"}
    made_of_them = [path for path in left if path.parent != tmp_path]
    assert {path.parent for path in made_of_them} == {tmp_path / "out"}, "a copy is in the cache"
    assert not any(b"Baker" in path.read_bytes() for path in made_of_them)


def _conversation(last: str) -> dict[str, list[dict[str, str]]]:
    turns = [
        ("system", "Be kind."),
        ("user", "Hello."),
        ("assistant", "Hello."),
        ("user", last),
        ("assistant", "I see."),
    ]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_lines_of_old_files_stay_apart(tmp_path: Path) -> None:
    """A lone carriage return ends a line, as in files of old editors, and joins no words."""
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"{LONG.strip()}\rSecond line.\r\nThird line."}])
    _, files, _ = made(tmp_path / "out", path=str(path))
    assert [row["text"] for row in table(files.speeches)] == [f"{LONG.strip()}\nSecond line.\nThird line."]


def test_characters_count_more_in_chinese(tmp_path: Path) -> None:
    short, enough = "我最近总是睡不着" * 4, "我最近总是睡不着,不知道怎么跟家里人说这件事情" * 2
    path = jsonl(tmp_path / "a.jsonl", [{"text": short}, {"text": enough}])
    _, files, _ = made(tmp_path / "out", path=str(path), languages=["zh"])
    assert [row["text"] for row in table(files.speeches)] == [enough]


def test_a_bad_row_ends_the_step_or_is_counted(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": LONG}, {"text": 7}, {"other": "secret words"}, {"text": " "}])
    with pytest.raises(
        UserError, match=r"a\.jsonl line 2: text must be a string or a list of .*; speeches\.bad_rows=drop"
    ):
        made(tmp_path / "out", path=str(path))
    assert not list((tmp_path / "out").iterdir()), "a failed step left files"
    figures, _, said = made(tmp_path / "out", path=str(path), bad_rows="drop")
    assert figures["sources"]["a.jsonl"] == {"rows": 4, "kept": 1, "fell": {"bad row": 3}}
    assert sum("bad row dropped" in line for line in said) == 3 and "secret" not in "".join(said)


def test_cells_that_pandas_left_missing_state_nothing(tmp_path: Path) -> None:
    """NaN and NA are no risks that the column states, so the rules decide; a missing text names its column."""
    none, danger = float("nan"), f"{LONG} I think about suicide every night."
    about = [{"risk": "NA"}, {"risk": none, "topic": none}]
    rows = [{"text": text, **said} for text, said in zip((LONG, danger), about, strict=True)]
    path = jsonl(tmp_path / "a.jsonl", [*rows, {"text": none, "id": 3}])
    with pytest.raises(UserError, match=r"a\.jsonl line 3: text is empty; speeches\.bad_rows=drop"):
        made(tmp_path / "out", path=str(path))
    _, files, _ = made(tmp_path / "out", path=str(path), bad_rows="drop", rules_may_clear=True, near=1.0)
    found = {row["text"]: (row["risk"], row["risk_source"]) for row in table(files.speeches)}
    assert found == {LONG.strip(): ("none", "rules"), danger: ("suicidal_thoughts", "rules")}


def test_where_nothing_is_left_the_reasons_are_said(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "Help."}, {"text": "Hi."}])
    with pytest.raises(UserError, match=r"none of the 2 rows is kept \(2 too short\): see speeches\.min_characters"):
        made(tmp_path / "out", path=str(path))


def test_the_sample_comes_with_its_topics_and_risks(tmp_path: Path) -> None:
    figures, files, _ = made(tmp_path / "out", path="builtin:sample", language="en", fraction=0.06)
    given = {row["id"]: row for _, row in sample_rows()}
    rows = {row["row"]: row for row in table(files.speeches)}
    assert rows.keys() == given.keys()
    for identity, row in rows.items():
        kinds = [risk["kind"] for risk in given[identity]["risk"]]
        assert row["topic"] == given[identity]["topic"] and row["risk_source"] == "column"
        assert row["risk"] in (kinds or ["none"]) and row["crisis"] == bool(kinds)
    assert figures["crisis"] == sum(bool(row["risk"]) for row in given.values())
    assert 0.03 < figures["by_split"]["test"] / len(rows) < 0.09


def test_without_a_column_the_risk_is_unknown_and_a_crisis(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": LONG}, {"text": LONG.replace("move", "funeral") + "I want to die."}])
    _, files, _ = made(tmp_path / "out", path=str(path), near=1, split_near=1)
    found = {row["risk"]: (row["risk_source"], row["crisis"]) for row in table(files.speeches)}
    assert found == {"unknown": ("unknown", True), "suicidal_thoughts": ("rules", True)}
    _, files, _ = made(tmp_path / "out", path=str(path), near=1, split_near=1, rules_may_clear=True)
    found = {row["risk"]: (row["risk_source"], row["crisis"]) for row in table(files.speeches)}
    assert found == {"none": ("rules", False), "suicidal_thoughts": ("rules", True)}


@pytest.mark.parametrize(
    ("kept", "double", "expected"),
    [
        ("none", "suicidal_thoughts", ("suicidal_thoughts", "column", True)),
        ("minor", "overdose", ("overdose", "column", True)),
        ("overdose", "minor", ("overdose", "column", True)),
        (None, "abuse", ("abuse", "column", True)),
        ("none", "bad?", ("unknown", "column", True)),
        ("none", None, ("none", "column", False)),
        (None, "none", ("unknown", "unknown", True)),
    ],
)
def test_a_speech_takes_the_most_urgent_risk_of_its_doubles(
    tmp_path: Path, kept: str | None, double: str | None, expected: tuple[str, str, bool]
) -> None:
    near = LONG.replace("the move", "my move") + some(0)
    for name, text_of_double in (("same", (LONG + some(0)).replace(" ", "  ")), ("near", near)):
        one = jsonl(tmp_path / "one.jsonl", [{"text": LONG + some(0), "risk": kept}, {"text": some(1), "risk": "none"}])
        other = jsonl(tmp_path / "other.jsonl", [{"text": text_of_double, "risk": double}])
        sources = [{"path": str(path), "language": "en"} for path in (one, other)]
        figures, files, _ = made(tmp_path / name, sources=sources)
        (row,) = [row for row in table(files.speeches) if row["row"] == "one.jsonl line 1"]
        assert (row["risk"], row["risk_source"], row["crisis"]) == expected
        assert len(table(files.speeches)) == 2 and figures["crisis"] == expected[2]


def test_removed_speeches_stay_away_and_their_doubles_too(tmp_path: Path, two_sources: dict[str, Path]) -> None:
    sources = [{"path": str(path), "language": "en"} for path in two_sources.values()]
    _, files, _ = made(tmp_path / "out", sources=sources)
    gone = next(row["speech"] for row in table(files.speeches) if row["row"] == "f3")
    before = {row["speech"]: row["split"] for row in table(files.speeches)}
    files.removed.write_text(hashlib.sha256(gone.encode()).hexdigest() + "\n")
    made(tmp_path / "out", sources=sources)
    after = {row["speech"]: row["split"] for row in table(files.speeches)}
    assert after == {speech: split for speech, split in before.items() if speech != gone}


def test_a_limit_keeps_the_same_speeches_whatever_the_order_of_rows(tmp_path: Path) -> None:
    rows = [{"text": some(number)} for number in range(30)]
    found = []
    for name, order in (("a", rows), ("b", rows[::-1])):
        _, files, _ = made(tmp_path / name, path=str(jsonl(tmp_path / f"{name}.jsonl", order)), language="en", limit=7)
        found.append([row["speech"] for row in table(files.speeches)])
    assert found[0] == found[1] and len(found[0]) == 7


def test_tables_are_as_private_as_the_source_and_the_sample_for_the_eye_more_so(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": f"My name is Tom Baker. {LONG}"}])
    path.chmod(0o600)
    _, files, _ = made(tmp_path / "out", path=str(path))
    modes = {
        stat.S_IMODE(each.stat().st_mode) for each in (files.speeches, files.dropped_speeches, files.identifier_sample)
    }
    assert modes == {0o600}
    shown = files.identifier_sample.read_text()
    assert "[NAME_1]" in shown and "Baker" not in shown and "not anonymisation" in shown
    path.chmod(0o644)
    made(tmp_path / "out", path=str(path))
    assert stat.S_IMODE(files.identifier_sample.stat().st_mode) == 0o600


def test_many_rows_are_cleaned_by_several_processes_as_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": some(number)} for number in range(40)]
    path = jsonl(tmp_path / "a.jsonl", rows)
    _, one, _ = made(tmp_path / "one", path=str(path), language="en")
    monkeypatch.setattr("psychocounsel.annotation.speeches.tables._ALONE", 5)
    monkeypatch.setattr("psychocounsel.annotation.speeches.tables._ROWS", 3)
    _, other, _ = made(tmp_path / "other", path=str(path), language="en")
    assert table(one.speeches) == table(other.speeches)
