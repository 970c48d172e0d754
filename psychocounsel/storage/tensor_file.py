"""Tensor files in the safetensors format, written in pieces and read in ranges, without torch or pickle."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.storage.blob import Damaged
from psychocounsel.storage.hashes import FileMark, write_marked
from psychocounsel.storage.weight_files import LONGEST_HEADER

WIDTHS = {"F32": 4, "BF16": 2}  # bytes of an element


@dataclass(frozen=True)
class TensorEntry:
    """A tensor's entry in the header: dtype ("F32"), shape, and the offset of its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


def write_tensor_file(
    path: Path, tensors: Mapping[str, tuple[str, Sequence[int]]], contents: Iterable[memoryview]
) -> FileMark:
    """Write a file of `tensors` (name -> dtype and shape) and sync it; `contents` are the bytes of each tensor, in order.

    Raises:
        OSError: if the file cannot be written.
    """
    header, end = dict[str, Any](), 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + WIDTHS[dtype] * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def pieces() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        yield from contents

    return write_marked(path, pieces())


def read_tensor_header(path: Path) -> dict[str, TensorEntry]:
    """Return the header entries of a file's tensors, by name.

    Raises:
        Damaged: if the file is not in this format or is cut short.
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(length) if length <= LONGEST_HEADER else b""
    size, first = path.stat().st_size, 8 + length
    try:
        header = {name: about for name, about in json.loads(text).items() if name != "__metadata__"}
        entries = {name: _entry(about, first, size) for name, about in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(path) from error
    return entries


def _entry(about: dict[str, Any], first: int, size: int) -> TensorEntry:
    shape, (begin, end) = tuple(map(int, about["shape"])), map(int, about["data_offsets"])
    entry = TensorEntry(about["dtype"], shape, first + begin)
    if min((*shape, begin)) < 0 or end - begin != WIDTHS[entry.dtype] * entry.elements or first + end > size:
        raise ValueError("a tensor lies outside of its file")
    return entry


def read_range(path: Path, entry: TensorEntry, start: int, stop: int) -> np.ndarray:
    """Return the bytes of the elements `start` to `stop` of a tensor, in flattened order [uint8].

    Raises:
        OSError: if the file cannot be read.
    """
    width = WIDTHS[entry.dtype]
    return np.fromfile(path, np.uint8, count=(stop - start) * width, offset=entry.begin + start * width)
