"""Files, folders and saved datasets give the same examples without a network; unreadable ones give one line."""

import json
import logging
import math
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.data.rows import Example, as_number, every_turn
from psychocounsel.data.selection import load_split
from psychocounsel.data.sources import load_examples, read_rows, source_of
from psychocounsel.errors import UserError
from tests.support.composed import check, compose
from tests.support.harness import ROOT, write_jsonl

ROWS = [
    {
        "id": f"row{number}",
        "prompt": f"Speech {number}: I can't sleep \u2013 not at all.",
        "chosen": "Go on.",
        "rejected": "Stop.",
    }
    for number in range(6)
]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make any attempt to connect fail, and keep files of `datasets` in the test's folder."""

    def refuse(*_: Any) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Collect the log of `datasets`, at the level of a fresh process."""
    records: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    keep, logger = Keep(), logging.getLogger("datasets")
    datasets.logging.set_verbosity_warning()
    logger.addHandler(keep)
    yield records
    logger.removeHandler(keep)


def jsonl(folder: Path, rows: list[dict[str, Any]]) -> Path:
    return write_jsonl(folder / "rows.jsonl", rows)


def json_list(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder / "rows.json"


def with_byte_order_mark(folder: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8-sig")
    return folder / "rows.jsonl"


def parquet(folder: Path, rows: list[dict[str, Any]], name: str = "rows.parquet") -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / name)
    return folder / name


def hub_folder(folder: Path, rows: list[dict[str, Any]], test: list[dict[str, Any]] | None = None) -> Path:
    (folder / "hub" / "data").mkdir(parents=True)
    parquet(folder / "hub" / "data", rows, "train-00000-of-00001.parquet")
    parquet(folder / "hub" / "data", test or rows[:2], "test-00000-of-00001.parquet")
    return folder / "hub"


def jsonl_folder(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "many").mkdir()
    write_jsonl(folder / "many" / "train.jsonl", rows)
    write_jsonl(folder / "many" / "test.jsonl", rows[:2])
    return folder / "many"


def saved_dataset(folder: Path, rows: list[dict[str, Any]]) -> Path:
    datasets.Dataset.from_list(rows).save_to_disk(folder / "saved")
    return folder / "saved"


def saved_dict(folder: Path, rows: list[dict[str, Any]]) -> Path:
    splits = {"train": datasets.Dataset.from_list(rows), "test": datasets.Dataset.from_list(rows[:2])}
    datasets.DatasetDict(splits).save_to_disk(folder / "saved")
    return folder / "saved"


ONE_SPLIT = [jsonl, json_list, with_byte_order_mark, parquet, saved_dataset]
TWO_SPLITS = [hub_folder, jsonl_folder, saved_dict]


@pytest.mark.parametrize("write", [*ONE_SPLIT, *TWO_SPLITS])
def test_every_source_gives_the_same_examples(write: Any, tmp_path: Path) -> None:
    found = load_examples(str(write(tmp_path, ROWS)), "train", None)
    assert [example.id for example in found] == [row["id"] for row in ROWS]
    assert [example.prompt[0]["content"] for example in found] == [row["prompt"] for row in ROWS]
    assert all(example.replies == ["Go on.", "Stop."] for example in found)
    assert len({example.where for example in found}) == len(ROWS)


@pytest.mark.parametrize("write", TWO_SPLITS)
def test_another_split_is_found_and_a_wrong_one_names_those_there_are(write: Any, tmp_path: Path) -> None:
    folder = str(write(tmp_path, ROWS))
    assert [example.id for example in load_examples(folder, "test", None)] == ["row0", "row1"]
    with pytest.raises(UserError, match=r"has no split dev; its splits are (train, test|test, train)"):
        load_examples(folder, "dev", None)


@pytest.mark.parametrize("write", ONE_SPLIT)
def test_a_source_without_splits_refuses_another_than_train(write: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no split test; its splits are train"):
        load_examples(str(write(tmp_path, ROWS)), "test", None)


def test_the_sample_has_one_split() -> None:
    with pytest.raises(UserError, match="builtin:sample has no split test; its splits are train"):
        load_examples("builtin:sample", "test", None)


@pytest.mark.parametrize("write", [jsonl, json_list])
def test_an_empty_file(write: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the dataset is empty"):
        load_examples(str(write(tmp_path, [])), "train", None)


def test_an_empty_parquet_file_and_an_empty_folder(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match="the dataset is empty"):
        load_examples(str(tmp_path / "rows.parquet"), "train", None)
    (tmp_path / "nothing").mkdir()
    assert one_line(str(tmp_path / "nothing")).endswith("nothing: this folder holds no data file")
    (tmp_path / "nothing" / "notes.docx").touch()
    assert one_line(str(tmp_path / "nothing")).endswith("nothing: this folder holds no data file")


def one_line(path: str) -> str:
    """Return the single line that rejects `path`; it must name the path."""
    with pytest.raises(UserError) as caught:
        load_examples(path, "train", None)
    assert "\n" not in str(caught.value)
    assert Path(path).name in str(caught.value)
    return str(caught.value)


def test_a_missing_file_is_refused_before_work_starts(tmp_path: Path) -> None:
    for path in (f"{tmp_path}/none.jsonl", "none.parquet", "./none", "a/b/c"):
        with pytest.raises(UserError, match=f"data.path={path}: no such file or folder"):
            check(compose(["data=local", f"data.path={path}"]))


def test_a_missing_file_or_hub_dataset_is_one_line(tmp_path: Path) -> None:
    one_line(str(tmp_path / "none.jsonl"))
    one_line("no-such-organisation/no-such-dataset")


def test_a_corrupt_parquet_file_is_one_line_alone_and_in_a_folder(tmp_path: Path, logged: list[str]) -> None:
    broken = parquet(tmp_path, ROWS)
    broken.write_bytes(broken.read_bytes()[:-20])
    assert "is not a parquet file" in one_line(str(broken))
    folder = hub_folder(tmp_path, ROWS)
    (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"PAR1" + os.urandom(300))
    assert "train-00000-of-00001.parquet: is not a parquet file" in one_line(str(folder))
    assert logged == []


def test_a_broken_file_in_a_folder_is_not_quoted(tmp_path: Path, logged: list[str]) -> None:
    (tmp_path / "rows.csv").write_text("prompt,chosen,rejected\nSecret one,b,c\nSecret two,b,c,d,e\n")
    with pytest.raises(UserError, match=r"^rows.csv row 2: has 5 cells, but the header has 3") as caught:
        load_examples(str(tmp_path), "train", None)
    assert "Secret" not in str(caught.value) and logged == []


def test_unknown_kinds_of_file_and_wrong_encodings_are_named(tmp_path: Path) -> None:
    (tmp_path / "rows.docx").write_text("text")
    assert "use .jsonl, .ndjson, .json, .parquet" in one_line(str(tmp_path / "rows.docx"))
    (tmp_path / "rows.jsonl").write_bytes('{"prompt": "caf\u00e9"}\n'.encode("latin-1"))
    assert "is not UTF-8 text" in one_line(str(tmp_path / "rows.jsonl"))
    (tmp_path / "rows.json").write_text('{"prompt": "one"}')
    assert "belongs in a .jsonl file" in one_line(str(tmp_path / "rows.json"))
    (tmp_path / "rows.json").write_text('["one"]')
    assert "rows.json row 1: must be a JSON object" in one_line(str(tmp_path / "rows.json"))


def released(number: int, gap: int) -> dict[str, Any]:
    """Return a row of the released dataset, whose two replies differ by `gap` in every principle."""
    row: dict[str, Any] = {
        "ID": f"q{number // 2}",
        "prefID": number,
        "question": f"Speech {number // 2}",
        "chosen": f"Good {number}",
        "rejected": f"Bad {number}",
        "chosen_model": "model-a",
        "rejected_model": "model-b",
    }
    for name in PRINCIPLES:
        row |= {f"chosen_{name}_rating": 5, f"rejected_{name}_rating": 5 - gap}
    return row


def released_data(tmp_path: Path, *overrides: str) -> DictConfig:
    folder = hub_folder(tmp_path, [released(n, 1 + n % 3) for n in range(20)], [released(n, 4) for n in range(16, 22)])
    schema = pq.read_schema(folder / "data" / "train-00000-of-00001.parquet")
    assert [schema.field(name).type for name in ("prefID", "chosen_safety_rating")] == [pa.int64(), pa.int64()]
    assert len(schema) == 7 + 14
    return check(compose(["data=psychocounsel", f"data.path={folder}", *overrides])).data


def test_the_released_dataset_loads_from_a_folder_with_its_ratings(tmp_path: Path) -> None:
    train, held_out = load_split(released_data(tmp_path, "data.dev_fraction=0.2"), print)
    assert (len(train), len(held_out)) == (16, 4)
    example = next(example for example in [*train, *held_out] if example.id == "7")
    assert example.prompt == [{"role": "user", "content": "Speech 3"}]
    assert example.replies == ["Good 7", "Bad 7"]
    assert example.ratings == [dict.fromkeys(PRINCIPLES, 5.0), dict.fromkeys(PRINCIPLES, 3.0)]


def test_the_released_dataset_keeps_pairs_by_gap_and_tests_on_its_own_split(tmp_path: Path) -> None:
    said: list[str] = []
    data = released_data(tmp_path, "data.min_gap=2", "data.eval_split=test")
    train, held_out = load_split(data, said.append)
    assert [example.id for example in held_out] == [str(number) for number in range(16, 22)]
    assert [example.id for example in train] == [str(number) for number in range(16) if number % 3]
    assert any("7 pairs dropped (gap below data.min_gap)" in line for line in said)
    assert any("3 training rows dropped (their prompt is in the held-out data)" in line for line in said)


def test_what_datasets_makes_of_private_files_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "clients"
    folder.mkdir()
    (folder / "train.json").write_text(json.dumps(ROWS))  # the datasets library reads such a folder
    cache = tmp_path / "cache"
    assert len(load_examples(str(folder), "train", None)) == len(ROWS)
    (shared,) = {path.stat().st_mode & 0o777 for path in cache.rglob("*.arrow")}
    assert shared & 0o044, "as the umask says"
    (folder / "train.json").write_text(json.dumps(ROWS[:3]))
    (folder / "train.json").chmod(0o600)
    assert len(load_examples(str(folder), "train", None)) == 3
    private = cache / f"private-{os.getuid()}"
    made = [private, *private.rglob("*")]
    assert any(path.suffix == ".arrow" for path in made)
    assert {path.stat().st_mode & 0o077 for path in made} == {0}


def test_folders_of_the_same_name_and_card_are_not_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` by itself would give the first folder's rows for both, and old rows for a changed folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def written(place: str, text: str) -> str:
        folder = tmp_path / place / "dataset"
        folder.mkdir(parents=True, exist_ok=True)
        row = {"prompt": text, "chosen": "Good.", "rejected": "Bad."}
        pq.write_table(pa.Table.from_pylist([row]), folder / "train.parquet")
        files = "configs: [{config_name: default, data_files: [{split: train, path: train.parquet}]}]"
        (folder / "README.md").write_text(f"---\n{files}\n---\n")
        return str(folder)

    for place, text in (("one", "I am first."), ("two", "I am second."), ("one", "I have changed.")):
        (example,) = load_examples(written(place, text), "train", None)
        assert example.prompt[0]["content"] == text


# Tables as people export them, and columns of other names.


def table(path: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def pairs_read(path: Path, *overrides: str) -> list[tuple[str, list[str]]]:
    config = check(compose(["data=local", f"data.path={path}", "data.dev_fraction=0", *overrides]))
    return [(row.prompt[-1]["content"], row.replies) for row in load_split(config.data, lambda line: None)[0]]


def test_words_that_pandas_takes_for_missing_are_texts(tmp_path: Path) -> None:
    words = ["None", "NA", "N/A", "null", "nan"]
    lines = ["prompt,chosen,rejected", *(f"Day {word}.,{word},Why?" for word in words)]
    expected = [(f"Day {word}.", [word, "Why?"]) for word in words]
    assert pairs_read(table(tmp_path / "rows.csv", *lines)) == expected
    assert pairs_read(table(tmp_path / "folder" / "rows.csv", *lines).parent) == expected
    with pytest.raises(UserError, match=r"rows.csv row 1: has no chosen"):
        pairs_read(table(tmp_path / "rows.csv", "prompt,chosen,rejected", "Day 1.,,Why?"))


@pytest.mark.parametrize(("name", "mark"), [("semicolon", ";"), ("tab", "\t"), ("bar", "|")])
def test_other_delimiters_are_recognised_and_read(name: str, mark: str, tmp_path: Path) -> None:
    lines = [mark.join(cells) for cells in (("prompt", "chosen", "rejected"), ("Day 1, and 2.", "Since when?", "Hm."))]
    file = table(tmp_path / "rows.csv", *lines)
    for told in ((), (f"data.delimiter={name}",)):
        assert pairs_read(file, *told) == [("Day 1, and 2.", ["Since when?", "Hm."])]
    with pytest.raises(UserError, match=rf"a {name} separates its cells: add data.delimiter={name}"):
        pairs_read(file, "data.delimiter=comma")


def test_a_pointer_of_git_lfs_is_told(tmp_path: Path) -> None:
    file = table(tmp_path / "rows.CSV.GZ", "version https://git-lfs.github.com/spec/v1", "oid sha256:00", "size 7")
    with pytest.raises(UserError, match=r"rows.CSV.GZ: holds only a pointer of Git LFS; run git lfs pull"):
        pairs_read(file)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (
            "rows.jsonl",
            '{"prompt": "Day 1."},',
            "Extra data at line 1 column 21); a line holds one object and no comma",
        ),
        ("rows.jsonl", '{\n"prompt": "Day 1."\n}', "at line 2 column 1); write each object in one line"),
        ("rows.jsonl", '{"prompt": "a\tb"}', "(Invalid control character at line 1 column 14)"),
        ("rows.json", '{"prompt": "a"}\n{"prompt": "b"}', "a file with one object a line is named .jsonl"),
        ("rows.csv", 'prompt,chosen\n"He said \\"no\\", twice",b', "each mark inside is written twice"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_mend(name: str, text: str, reason: str, tmp_path: Path) -> None:
    assert reason in one_line(str(table(tmp_path / name, text)))


def test_a_key_that_stands_twice_is_refused_with_its_place(tmp_path: Path) -> None:
    twice = '{"prompt": "Day 1.", "prompt": "Day 2.", "chosen": "Why?", "rejected": "Hm."}'
    once = '{"prompt": "Day 3.", "chosen": "Why?", "rejected": "Hm."}'
    file = table(tmp_path / "rows" / "rows.jsonl", once, twice)
    for path in (file, file.parent):
        with pytest.raises(UserError, match=r"^rows.jsonl line 2: has the key prompt twice; keep one of them$"):
            pairs_read(path)
    with pytest.raises(UserError, match=r"^rows.json: has the key prompt twice"):
        pairs_read(table(tmp_path / "rows.json", f"[{once}, {twice}]"))
    assert pairs_read(file, "data.bad_rows=drop") == [("Day 3.", ["Why?", "Hm."])]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16le", "utf-16be"])
@pytest.mark.parametrize("file", ["rows.csv", "rows.jsonl"])
def test_another_encoding_is_named_with_the_command_that_converts_it(file: str, encoding: str, tmp_path: Path) -> None:
    path = table(tmp_path / file, "prompt,chosen,rejected", "Caf\u00e9.,Since when?,Hm.", encoding=encoding)
    with pytest.raises(
        UserError, match=rf"is not UTF-8 text \(byte \d+\); convert it, for instance by iconv -f {encoding} "
    ):
        pairs_read(path)


def test_columns_of_other_names_are_read_as_told(tmp_path: Path) -> None:
    rows = [{"questionText": f"Day {day}.", "answerText": "Why?", "id": day, "upvotes": 3} for day in range(3)]
    file = write_jsonl(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError) as caught:
        pairs_read(file)
    hint = "'data.columns={prompt: questionText, completion: answerText}'"
    assert str(caught.value).endswith(f"; try {hint}")
    assert pairs_read(file, hint.strip("'")) == [(f"Day {day}.", ["Why?"]) for day in range(3)]
    for columns, message in (
        (
            "{prompt: questionText, completion: answer}",
            r"line 1: has no column answer \(data.columns.completion\); its columns",
        ),
        ("{promt: questionText}", r"data.columns: promt is none of the names .* did you mean prompt\?"),
    ):
        with pytest.raises(UserError, match=message):
            pairs_read(file, f"data.columns={columns}")
    with pytest.raises(UserError, match=r"data.columns: cannot be combined with data.mix"):
        pairs_read(file, "data.columns={prompt: a}", f"data.mix=[{{path: {file}, rows: 1}}]")


def test_rows_of_one_turn_each_are_joined_and_repeated_turns_taken_once(tmp_path: Path) -> None:
    lines = ["transcript_id,utterance_id,interlocutor,utterance_text,annotator_id,topic"]
    for annotator in (1, 2):
        for transcript in range(3):
            said = (
                ("client", "Hello."),
                ("client", f"Day {transcript}."),
                ("therapist", "Since when?"),
                ("client", "Always."),
            )
            turns = [f"{transcript},{turn},{who},{text},{annotator},sleep" for turn, (who, text) in enumerate(said)]
            lines += reversed(turns) if annotator == 1 else turns
    file, columns = table(tmp_path / "rows.csv", *lines), "role: interlocutor, content: utterance_text"
    expected = [(f"Hello.\nDay {transcript}.", ["Since when?"]) for transcript in range(3)]
    once = f"data.columns={{id: utterance_id, {columns}}}"
    assert pairs_read(file, "data.group_by=transcript_id", once) == expected
    with pytest.raises(
        UserError, match=r"data.group_by=transcript_id: joins rows with one turn each: name the columns"
    ):
        pairs_read(file, "data.group_by=transcript_id")
    with pytest.raises(UserError, match=r"rows.csv row 1: has no conversation \(data.group_by=talk\)"):
        pairs_read(file, "data.group_by=talk", once)


def test_a_configuration_of_a_dataset_is_a_subset(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for language in ("en", "de"):
        write_jsonl(
            folder / f"{language}.jsonl", [{"prompt": f"Day in {language}.", "chosen": "Why?", "rejected": "Hm."}]
        )
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("en", "de"))
    (folder / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    for language in ("en", "de"):
        assert pairs_read(folder, f"data.subset={language}") == [(f"Day in {language}.", ["Why?", "Hm."])]
    with pytest.raises(UserError, match=r"its configurations are de, en: add one of them as data.subset=NAME"):
        pairs_read(folder)
    with pytest.raises(UserError, match=r"its configurations are de, en: add one of them as data.subset=NAME"):
        pairs_read(folder, "data.subset=fr")


def turns_of(speaker: str, said: str, client: str, counsellor: str) -> list[dict[str, Any]]:
    names = (client, counsellor, client, counsellor)
    texts = ("Day 1.", "Why?", "Day 2.", "Go on.")
    return [{speaker: name, said: text} for name, text in zip(names, texts, strict=True)]


ANSWERED, EVERY = [("Day 1.", ["Why?"])], [("Day 1.", ["Why?"]), ("Day 2.", ["Go on."])]
ANNOMI = [
    {
        "mi_quality": "high",
        "transcript_id": 0,
        "topic": "sleep",
        "utterance_id": number,
        "timestamp": "00:00:01",
        **turn,
    }
    for number, turn in enumerate(turns_of("interlocutor", "utterance_text", "client", "therapist"))
]
# Preset: made-up rows with the columns of its set, the examples that they make, and the licence that the authors state.
PUBLISHED: dict[str, tuple[list[dict[str, Any]], list[tuple[str, list[str]]], str | None]] = {
    "counsel_chat": (
        [
            {
                "": 3,
                "questionID": 7,
                "questionTitle": "Nights",
                "questionText": text,
                "answerText": "Why?",
                "upvotes": 2,
            }
            for text in ("Day 1.", None)
        ],
        ANSWERED,
        None,
    ),
    "amod": ([{"Context": "Day 1.", "Response": "Why?"}], ANSWERED, "rail-d"),
    "mentalchat16k": ([{"instruction": "You help.", "input": "Day 1.", "output": "Why?"}], ANSWERED, "mit"),
    "cactus": (
        [
            {
                "thought": "I fail.",
                "patterns": ["labelling"],
                "intake_form": "Name: Ida",
                "cbt_technique": "Reframing",
                "cbt_plan": "Ask.",
                "attitude": "neutral",
                "dialogue": "Client: Day 1.\nCounselor: Why?\nClient: Day 2.\nCounselor: Go on.",
            }
        ],
        EVERY,
        "gpl",
    ),
    "esconv": (
        [
            {
                "experience_type": "Current Experience",
                "emotion_type": "anxiety",
                "problem_type": "sleep",
                "situation": "Nights.",
                "survey_score": {},
                "dialog": [
                    {"annotation": {}, **turn} for turn in turns_of("speaker", "content", "seeker", "supporter")
                ],
            }
        ],
        EVERY,
        "cc-by-nc-4.0",
    ),
    "annomi": ([{**row, "annotator_id": judge} for row in ANNOMI[::-1] for judge in (0, 1)], EVERY, None),
    "soulchat": (
        [{"id": 0, "topic": "sleep", "messages": turns_of("role", "content", "user", "assistant")}],
        EVERY,
        "apache-2.0",
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_reads_rows_of_its_published_set(name: str, tmp_path: Path) -> None:
    rows, expected, licence = PUBLISHED[name]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows))
    config = check(compose(["algo=sft", f"data={name}", f"data.path={file}", "data.dev_fraction=0"]))
    read = load_split(config.data, lambda line: None)[0]
    learned = [turn for row in read for turn in (every_turn(row) if config.data.train_on == "every" else [row])]
    assert [(turn.prompt[-1]["content"], turn.replies) for turn in learned] == expected
    assert (config.data.name, config.data.license) == (name, licence)
    page = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    (line,) = (line for line in page.splitlines() if line.startswith("|") and f" data={name}" in line)
    columns = [*(config.data.columns or {}).values(), *([config.data.group_by] if config.data.group_by else [])]
    assert all(f"`{column}`" in line for column in columns) and (licence or "none stated") in line


def test_several_raters_of_a_reply_count_as_their_mean_as_in_counselbench(tmp_path: Path) -> None:
    ratings = {"human": [2, 5, 2], "gpt4": [4, 4, 3], "gemini": [3, 3, 3]}  # one of the raters prefers "human"
    rows = [
        {
            "questionID": 7,
            "questionTitle": "Nights",
            "questionText": question,
            "response": responder,
            "topic": "sleep",
            "responder": responder,
            "survey_id": rater,
            "overall_score": score,
            "overall_reason": "Kind.",
            "medical_advice_score": "No",
        }
        for question in ("Day 1.", None)
        for responder, scores in ratings.items()
        for rater, score in enumerate(scores)
    ]
    file = write_jsonl(tmp_path / "counselbench.jsonl", rows)
    config = check(
        compose(["algo=reward", "data=counselbench", f"data.path={file}", "data.split=train", "data.dev_fraction=0"])
    )
    lines: list[str] = []
    pairs = load_split(config.data, lines.append)[0]
    made = [(pair.replies, pair.scores) for pair in pairs]
    assert made == [(["gpt4", other], [pytest.approx(11 / 3), 3]) for other in ("human", "gemini")]
    assert any("1 pair dropped (their scores are equal)" in line for line in lines)  # human and gemini: 3
    assert not any("are the same as" in line for line in lines)
    page = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")
    assert "data=counselbench" in page and config.data.license in page


def test_votes_make_pairs_of_the_replies_to_a_question(tmp_path: Path) -> None:
    votes = [
        ("Day 1.", "Why?", 5),
        ("Day 1.", "Hm.", 1),
        ("Day 1.", "Oh.", 4),
        ("Day 2.", "Alone.", 3),
        ("Day 3.", "A", 2),
        ("Day 3.", "B", 2),
    ]
    rows = [{"questionText": question, "answerText": answer, "upvotes": count} for question, answer, count in votes]
    file, columns = write_jsonl(tmp_path / "rows.jsonl", rows), "prompt: questionText, completion: answerText"
    scored = f"data.columns={{{columns}, reply_score: upvotes}}"
    assert len(pairs_read(file, f"data.columns={{{columns}}}")) == 6, "SFT learns every reply"
    assert pairs_read(file, scored) == [
        ("Day 1.", [*pair]) for pair in (("Why?", "Hm."), ("Why?", "Oh."), ("Oh.", "Hm."))
    ]
    assert pairs_read(file, scored, "data.min_gap=3") == [("Day 1.", ["Why?", "Hm."]), ("Day 1.", ["Oh.", "Hm."])]
    assert pairs_read(file, scored, "data.pairs=extremes") == [("Day 1.", ["Why?", "Hm."])]
    named = [{**row, "name": "Ida"} for row in rows]
    with pytest.raises(UserError, match=r"line 1: reply_score must be a number"):
        pairs_read(write_jsonl(tmp_path / "named.jsonl", named), f"data.columns={{{columns}, reply_score: name}}")


# What goes wrong in real files is refused by row, and never changes a text.


def test_a_row_of_another_length_is_refused_and_empty_cells_at_its_end_are_not(tmp_path: Path) -> None:
    file = table(tmp_path / "rows.csv", "prompt,completion", "Day 1.,Why?,", "", ",", "I am sad, lonely,Why?")
    with pytest.raises(
        UserError, match=r"rows.csv row 2: has 3 cells, but the header has 2; put texts that contain ','"
    ):
        pairs_read(file)
    assert pairs_read(file, "data.bad_rows=drop") == [("Day 1.", ["Why?"])]
    with pytest.raises(UserError, match=r"row 2 or the row before has wrong quotation marks"):
        pairs_read(table(tmp_path / "open.csv", "prompt,completion", "Day 1.,Why?", '"Day 2.,Why?'))
    with pytest.raises(UserError, match=r"has two columns prompt"):
        pairs_read(table(tmp_path / "two.csv", "prompt,prompt,completion", "a,b,c"))


def test_columns_of_a_table_may_change_their_kind_late_and_texts_may_be_numbers(tmp_path: Path) -> None:
    lines = [f"{n},Day {n}.,{n % 3},{'' if n < 10_500 else 'sleep'}" for n in range(10_600)]
    file = table(tmp_path / "K.CSV", "sep=,", "id, prompt,completion ,topic", *lines[:-1], "A9,Day 0.,7,sleep")
    rows = load_examples(str(file), "train", None)
    long = table(tmp_path / "long.csv", "id,prompt,completion", f"{'9' * 5000},Day 1.,Why?")
    assert len(load_examples(str(long), "train", None)[0].id) == 5000
    assert (rows[0].id, rows[-1].id, rows[5].replies, rows[-1].topic) == ("0", "A9", ["2"], "sleep")


def turns(*rows: dict[str, Any], **common: Any) -> list[dict[str, Any]]:
    return [{"talk": 1, **common, **row} for row in rows]


C1, R1, C2, R2 = (
    {"who": who, "said": said}
    for who, said in (("client", "c1"), ("therapist", "r1"), ("client", "c2"), ("therapist", "r2"))
)
JOINED = ("data.group_by=talk", "data.columns={role: who, content: said}")
NUMBERED = ("data.group_by=talk", "data.columns={role: who, content: said, id: n}")


def test_turns_are_ordered_by_numbers_and_otherwise_as_they_stand(tmp_path: Path) -> None:
    numbered = turns(*({**turn, "n": str(n)} for n, turn in enumerate((C1, R1, C2, R2), 8)))[::-1]
    (talk,) = talks(tmp_path, numbered, *NUMBERED)
    assert talk == ["c1", "r1", "c2", "r2"]
    unmapped = turns(*({**turn, "id": 7} for turn in (C1, R1, C2, R2)))
    assert talks(tmp_path, unmapped, *JOINED) == [["c1", "r1", "c2", "r2"]]


def talks(tmp_path: Path, rows: list[dict[str, Any]], *overrides: str) -> list[list[str]]:
    """Return the turns of each conversation that is read."""
    file = write_jsonl(tmp_path / "turns.jsonl", rows)
    config = check(compose(["data=local", f"data.path={file}", "data.dev_fraction=0", *overrides]))
    read = load_split(config.data, lambda line: None)[0]
    return [[*(message["content"] for message in row.prompt), *row.replies] for row in read]


@pytest.mark.parametrize(
    ("rows", "keys", "message"),
    [
        (turns({**C1, "n": 1}, {**R1, "n": 1}), NUMBERED, r"line 2: has the id of another turn \(turns.jsonl line 1\)"),
        (
            [*turns(C1, R1), {**C2}],
            JOINED,
            r"line 3: has no conversation \(data.group_by=talk\): the column talk is missing or empty",
        ),
        (
            turns(C1, R1, talk=[1]),
            JOINED,
            r"line 1: has no conversation \(data.group_by=talk\): talk is neither text nor a number",
        ),
        (
            turns({**C1, "system": "Ask."}, {**R1, "system": "Tell."}),
            JOINED,
            r"line 2: has another system message than the first row of its conversation \(turns.jsonl line 1\)",
        ),
        (turns(C1, {**R1, "said": " "}), JOINED, r"line 2: the text of its turn is empty"),
    ],
)
def test_turns_that_cannot_be_joined_end_the_command(
    rows: list[dict[str, Any]], keys: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    for drop in ((), ("data.bad_rows=drop",)):
        with pytest.raises(UserError, match=message):
            talks(tmp_path, rows, *keys, *drop)


def test_a_conversation_keeps_the_label_and_the_system_message_of_its_rows(tmp_path: Path) -> None:
    rows = turns(C1, R1, label=0, system="Be brief.", note="x")
    file = write_jsonl(tmp_path / "turns.jsonl", rows)
    config = check(compose(["data=local", f"data.path={file}", "data.dev_fraction=0", *JOINED]))
    said: list[str] = []
    (row,) = load_split(config.data, said.append)[0]
    assert (row.label, row.prompt[0]) == (False, {"role": "system", "content": "Be brief."})
    assert any(line.endswith("columns that are not read: note") for line in said)


def test_what_differs_between_turns_is_not_read_and_a_system_message_may_stand_once(tmp_path: Path) -> None:
    rows = turns({**C1, "system": "Be brief.", "label": "sad"}, {**R1, "label": "calm"}, topic=3)
    file = write_jsonl(tmp_path / "turns.jsonl", rows)
    config = check(compose(["data=local", f"data.path={file}", "data.dev_fraction=0", *JOINED]))
    said: list[str] = []
    (row,) = load_split(config.data, said.append)[0]
    assert (row.label, row.prompt[0]) == (None, {"role": "system", "content": "Be brief."})
    assert f"{file}: columns that are not read: label (differs between turns)" in said
    write_jsonl(file, turns(C1, {**R1, "label": 0}))
    (row,) = load_split(config.data, said.append)[0]
    assert row.label is None and said.count(f"{file}: columns that are not read: label (differs between turns)") == 2


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"q": "Day 1.", "a": "Why?", "response": "No."}, "{prompt: q, completion: a}", ("Day 1.", ["Why?"])),
        ({"q": "Day 1.", "a": None, "response": "No."}, "{prompt: q, completion: a}", None),
        (
            {"Context": "Day 1.", "Response": "Why?", "messages": [{"role": "user", "content": "x"}], "chosen": "yes"},
            "{prompt: Context, completion: Response}",
            ("Day 1.", ["Why?"]),
        ),
        ({"prompt": "Day 1.", "completion": "Why?"}, "{prompt: q, completion: a, topic: tag}", ("Day 1.", ["Why?"])),
        ({"q": "Day 1.", "a": "Why?"}, "{prompt: q, completion: a, system: s}", ("Day 1.", ["Why?"])),
    ],
)
def test_named_columns_come_before_all_others(row: dict[str, Any], columns: str, expected: Any, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "rows.jsonl", [row, {**row, "s": "Be brief."}] if "system" in columns else [row])
    rows = load_examples(
        str(file),
        "train",
        None,
        source_of(
            check(
                compose(["data=local", f"data.path={file}", f"data.eval_path={file}", f"data.columns={columns}"])
            ).data
        ),
    )
    assert (rows[0].prompt[-1]["content"], rows[0].replies) == (expected or ("Day 1.", []))


def test_a_named_column_that_no_row_has_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("prompt,completion,is_good\nDay 1.,Why?,1\nDay 2.,Stop.,0\n")
    with pytest.raises(
        UserError,
        match=r"no row has a column isgood \(data.columns.label\); the columns are completion, is_good, prompt",
    ):
        read_all(file, "data.columns={prompt: prompt, label: isgood}")
    with pytest.raises(UserError, match=r"no row has a column promt \(data.columns.prompt\)"):
        read_all(file, "data.columns={prompt: promt}")


def read_all(path: Path, *overrides: str) -> list[Example]:
    return load_split(
        check(compose(["data=local", f"data.path={path}", "data.dev_fraction=0", *overrides])).data, print
    )[0]


def test_the_names_of_files_and_folders_tell_their_split(tmp_path: Path) -> None:
    rows = "prompt,chosen,rejected\nDay {}.,Why?,Stop.\n"
    for number, name in enumerate(("train/a.csv", "test/a.csv", "training_2.csv", "evaluation.csv")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(rows.format(number))
    (tmp_path / "more_train.CSV").write_text(rows.format(9))
    days = [example.prompt[0]["content"] for example in read_all(tmp_path)]
    assert days == ["Day 9.", "Day 0.", "Day 2."]
    assert [example.prompt[0]["content"] for example in read_all(tmp_path, "data.split=test")] == ["Day 3.", "Day 1."]
    (tmp_path / "annotators.csv").write_text(rows.format(8))
    with pytest.raises(
        UserError, match=r"annotators.csv is in no split, because other files are called train; move it"
    ):
        read_all(tmp_path)
    (tmp_path / "annotators.csv").unlink()
    (tmp_path / "README.md").write_text("# Notes")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "a.csv.metadata").write_text("of the hub's client")
    assert len(read_all(tmp_path)) == 3
    with pytest.raises(UserError, match="data.subset=en: .* has no card that lists the files of configurations"):
        read_all(tmp_path, "data.subset=en")
    (tmp_path / "README.md").write_text("configs: [{config_name: en, data_files: evaluation.csv}]")
    with pytest.raises(UserError, match="data.delimiter=semicolon: "):
        read_all(tmp_path, "data.delimiter=semicolon")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_files_of_one_name_are_told_apart_and_their_conversations_are_not_joined(kind: str, tmp_path: Path) -> None:
    def write(name: str, talk: str, client: str | None, counsellor: str | None) -> None:
        said = {"client": client, "therapist": counsellor}
        turns = [{"talk": talk, "who": who, "said": text} for who, text in said.items() if text]
        path = tmp_path / f"{name}.{kind}"
        path.parent.mkdir(exist_ok=True)
        if kind == "csv":
            path.write_text("\n".join(["talk,who,said", *(",".join(turn.values()) for turn in turns)]))
        elif kind == "jsonl":
            write_jsonl(path, turns)
        else:
            pq.write_table(pa.Table.from_pylist(turns), path)

    keys = ("data.group_by=talk", "data.columns={role: who, content: said}")
    write("north/turns", "1", "I'm sad.", "Why?")
    write("south/turns", "1", "I'm angry.", "Why?")
    row = "line 1" if kind == "jsonl" else "row 1"
    with pytest.raises(
        UserError, match=rf"south/turns.{kind} {row}: north/turns.{kind} has a conversation of this name"
    ):
        read_all(tmp_path, *keys)
    write("south/turns", "2", "I'm angry.", "Why?")
    expected = [("1", f"north/turns.{kind} {row}"), ("2", f"south/turns.{kind} {row}")]
    assert [(talk.id, talk.where) for talk in read_all(tmp_path, *keys)] == expected
    write("south/turns-00000-of-00002", "3", "I'm tired.", None)
    write("south/turns-00001-of-00002", "3", None, "Rest.")
    assert ["Rest."] in [talk.replies for talk in read_all(tmp_path, *keys)], "both files are parts of one table"


def test_a_folder_of_which_some_files_would_not_be_read_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", [{"prompt": "Day 1.", "chosen": "Why?", "rejected": "Stop."}])
    assert len(read_all(folder)) == 1
    (folder / "b.csv").write_text("prompt,chosen,rejected\nDay 2.,Why?,Stop.\n")
    with pytest.raises(UserError, match=r"b.csv would not be read beside the others, whose kind or split is another"):
        read_all(folder)


def test_a_file_of_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"prompt": "Day 1.", "chosen": "Why?", "rejected": "Stop."}])
    (tmp_path / "b.jsonl").symlink_to("gone.jsonl")
    with pytest.raises(UserError, match=r"b.jsonl: cannot be read \(No such file or directory\)$"):
        read_all(tmp_path)


def test_words_for_a_missing_number_are_missing_and_an_odd_cell_names_its_own_row(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    file.write_text('\nprompt, completion, reply_score\nDay 1., "Why, then?", 12\nDay 1.,Stop., 3\nDay 1.,NA,N/A\n')
    (pair,) = read_all(file)
    assert (pair.replies, pair.scores) == (["Why, then?", "Stop."], [12.0, 3.0])
    with file.open("a") as more:
        more.write("Day 2.,Rest.,many\n")
    with pytest.raises(UserError, match=r"votes.csv row 4: reply_score must be a number"):
        read_all(file)
    for switch, named in {
        "safety_veto=true": "data.safety_veto=false",
        "principle_weights={empathy: 5}": "equal data",
    }.items():
        with pytest.raises(UserError, match=f"row 1: has a reply_score, but no ratings: use {named}"):
            read_all(file, f"data.{switch}", "data.bad_rows=drop")


@pytest.mark.parametrize("digits", ["\uff11", "\u0661", "1_0"])
def test_digits_of_other_scripts_are_texts_and_no_ratings(digits: str, tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    lines = ["prompt,completion,id", *(f"Day 1.,Why {n}?,{digits}" for n in range(2))]
    file.write_text("\n".join(lines) + "\n")
    rows = [
        row
        for _, row in read_rows(source_of(compose(["data=local", f"data.path={file}"]).data), str(file), "train", None)
    ]
    assert [row["id"] for row in rows if isinstance(row, dict)] == [digits] * 2
    assert math.isnan(as_number(digits))


def test_a_decimal_comma_is_told(tmp_path: Path) -> None:
    file = tmp_path / "votes.csv"
    file.write_text("prompt;completion;reply_score\nDay 1.;Why?;4,5\nDay 1.;Stop.;3\n")
    with pytest.raises(UserError, match=r"votes.csv row 1: reply_score must be a number; write decimals with a point$"):
        read_all(file)


def test_ids_that_are_numbers_stay_texts(tmp_path: Path) -> None:
    file = tmp_path / "turns.csv"
    file.write_text("talk,who,said\n001,client,c1\n001,therapist,r1\n1,client,c2\n1,therapist,r2\n")
    assert [example.replies for example in read_all(file, *JOINED)] == [["r1"], ["r2"]]
