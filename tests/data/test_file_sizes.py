"""Short files that expand to gigabytes and endless rows are one line; large files of usual texts are read."""

import bz2
import gzip
import json
import lzma
import random
import socket
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from psychocounsel.data import file_sizes
from psychocounsel.data.file_sizes import check_sizes
from psychocounsel.data.sources import load_examples
from psychocounsel.errors import UserError

EXPANDS = "expand to more than 2.6 MB, which no usual text does; if you trust the file, give it unpacked"
AS_LINES = "expand to more than 2.6 MB, which no usual text does; if you trust the file, give its table as .jsonl"
PAIR = {"prompt": "I can't sleep.", "chosen": "Go on.", "rejected": "Stop."}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any) -> None:
        raise ConnectionError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(autouse=True)
def hundredth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a hundredth of the limits, for the time of the tests."""
    assert (file_sizes.LONGEST_ROW, file_sizes._ALWAYS_ALLOWED) == (64_000_000, 256_000_000)
    monkeypatch.setattr(file_sizes, "LONGEST_ROW", 640_000)
    monkeypatch.setattr(file_sizes, "_ALWAYS_ALLOWED", 2_560_000)


def repeated(text: str, times: int) -> Iterator[bytes]:
    """Yield a text many times, in pieces of many kB."""
    block = max(1, 40_000 // len(text))
    for _ in range(times // block):
        yield (text * block).encode()


def packed(path: Path, opener: Callable[..., Any], beginning: str, text: str, times: int) -> None:
    with opener(path, "wb") as file:
        file.write(beginning.encode())
        file.writelines(repeated(text, times))


def table(path: Path, **columns: Any) -> None:
    pq.write_table(pa.table(columns), path, compression="zstd", use_dictionary=True)


def long_text(path: Path) -> None:
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 800, pa.int32()), ["x" * 4_000])
    table(path, prompt=many.dictionary_decode(), chosen=["a"] * 800, rejected=["b"] * 800)


def categories(path: Path) -> None:
    """Columns that a reader restores as categories: in memory, their text stands there once."""
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 800, pa.int32()), ["x" * 4_000])
    table(path, prompt=many, chosen=["a"] * 800, rejected=["b"] * 800)


def long_list(path: Path) -> None:
    table(path, prompt=["a"], notes=pa.array([[0] * 400_000], pa.list_(pa.int64())))


def long_cell(path: Path) -> None:
    table(path, prompt=["a"], chosen=["x" * 650_000], rejected=["b"])


LINE = json.dumps(PAIR | {"prompt": "why " * 1_000}) + "\n"
ROW = "prompt,chosen,rejected\n" + "a,b,c\n"
FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a.jsonl.gz": (lambda path: packed(path, gzip.open, "", LINE, 800), EXPANDS),
    "line.jsonl.gz": (lambda path: packed(path, gzip.open, '{"prompt": "', "x", 720_000), "the row of line 1 has more than"),
    "line.jsonl": (lambda path: packed(path, open, LINE + '{"prompt": "', "x", 720_000), "the row of line 2 has more than"),
    "a.json.gz": (lambda path: packed(path, gzip.open, "[1", " ,1", 1_000_000), EXPANDS),
    "a.csv.gz": (lambda path: packed(path, gzip.open, ROW, f"{'why ' * 1_000},b,c\n", 800), EXPANDS),
    "cell.csv.gz": (lambda path: packed(path, gzip.open, ROW + '"', "x", 720_000), "line 3 has more than"),
    "lines.csv.gz": (lambda path: packed(path, gzip.open, ROW + '"', "x\n", 360_000), "has more than 640.0 kB"),
    "cells.csv": (lambda path: packed(path, open, ROW, "x,", 360_000), "line 3 has more than 640.0 kB"),
    "a.tsv.gz": (lambda path: packed(path, gzip.open, "", "x", 720_000), "line 1 has more than 640.0 kB"),
    "text.parquet": (long_text, AS_LINES),
    "categories.parquet": (categories, AS_LINES),
    "list.parquet": (long_list, AS_LINES),
    "cell.parquet": (long_cell, "row 1 has more than 640.0 kB, the limit of a row; shorten or remove it"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_would_fill_memory_is_one_line(name: str, tmp_path: Path) -> None:
    write, message = FILES[name]
    write(tmp_path / name)
    with pytest.raises(UserError) as refusal:
        load_examples(str(tmp_path / name), "train", None, dropped=[])
    assert message in str(refusal.value) and str(tmp_path / name) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.jsonl", "w") as file:
        file.writelines(repeated(LINE, 800))


def zstd(path: Path) -> None:
    with pa.output_stream(str(path), compression="zstd") as file:
        for piece in repeated(LINE, 800):
            file.write(piece)


PACKED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a.jsonl.bz2": (lambda path: packed(path, bz2.open, "", LINE, 800), EXPANDS),
    "a.jsonl.xz": (lambda path: packed(path, lzma.open, "", LINE, 800), EXPANDS),
    "a.jsonl.zst": (zstd, EXPANDS),
    "a.zip": (zipped, EXPANDS),
    "a.json.gz": FILES["a.json.gz"],
    "line.jsonl": (FILES["line.jsonl"][0], "line 2 has more than 640.0 kB, the limit of a row"),
    "text.parquet": FILES["text.parquet"],
}  # fmt: skip


@pytest.mark.parametrize("name", PACKED)
def test_a_folder_for_the_datasets_library_is_checked_before_it_is_unpacked(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: a\n  data_files: {name}\n---\n")
    write, message = PACKED[name]
    write(folder / name)
    with pytest.raises(UserError) as refusal:
        load_examples(str(folder), "train", None)
    assert message in str(refusal.value) and str(folder / name) in str(refusal.value)
    assert not (tmp_path / "cache").exists(), "nothing was unpacked"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.xz", "a.zip", "a.parquet", "a.gz", "a.jsonl.zst", "a.bz2"])
def test_a_damaged_file_is_left_to_its_reader(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"no such file")
    check_sizes(tmp_path / name)


def test_usual_texts_are_read_whatever_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files larger than what any compressed file may expand to are read, because texts do not shrink to a hundredth."""
    monkeypatch.setattr(file_sizes, "_ALWAYS_ALLOWED", 10_000)
    draw = random.Random(0)
    names = ["".join(draw.choices("abcdefghij", k=5)) for _ in range(500)]
    rows = [{name: " ".join(draw.choices(names, k=40)) for name in PAIR} for _ in range(300)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "plain.jsonl").write_text(text)
    (tmp_path / "same.jsonl").write_text(LINE * 1000)  # not compressed: of any size, however often it repeats itself
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "packed.json.gz").write_bytes(gzip.compress(json.dumps(rows).encode()))
    table(tmp_path / "packed.parquet", **{name: [row[name] for row in rows] for name in PAIR})
    for name in ("plain.jsonl", "packed.jsonl.gz", "packed.json.gz", "packed.parquet"):
        examples = load_examples(str(tmp_path / name), "train", None)
        assert [example.replies[0] for example in examples] == [row["chosen"] for row in rows], name
    assert len(load_examples(str(tmp_path / "same.jsonl"), "train", None)) == 1000
    (tmp_path / "same.jsonl.gz").write_bytes(gzip.compress(LINE.encode() * 1000))
    with pytest.raises(UserError, match="expand to more than"):
        load_examples(str(tmp_path / "same.jsonl.gz"), "train", None)
