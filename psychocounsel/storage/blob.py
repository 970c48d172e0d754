"""Files of a shared cache: arrays with a description and a checksum. A file is written whole or not at all, and never changes.

A file begins with three lines of text: the file type; the sha256 of everything after it, with the length of the header; and
the header in JSON. `head -3` shows them. The arrays follow.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.storage.files import write_atomically
from psychocounsel.storage.trust import open_trusted

_MAGIC = b"psychocounsel cache 1\n"
_SUMMED = len(_MAGIC) + 64 + 1  # offset of the part that the checksum covers
_START = _SUMMED + 10 + 1  # offset of the header
_ALIGN = 64


class Damaged(Exception):
    """A file in our format that is cut short or altered."""


class Foreign(Exception):
    """A file in another format than ours."""


def write_blob(path: Path, about: dict[str, Any], arrays: Mapping[str, np.ndarray], mode: int | None = None) -> None:
    """Write `arrays` and their description `about` (JSON values) durably; `mode` sets the file's permissions."""
    layout, offset = {}, 0
    for name, array in arrays.items():
        layout[name] = (array.dtype.str, array.shape, offset)
        offset += _padded(array.nbytes)
    header = json.dumps({"about": about, "arrays": layout}).encode()
    header = header.ljust(_padded(_START + len(header) + 1) - _START - 1) + b"\n"
    body: list[bytes | memoryview] = [f"{len(header):010d}\n".encode(), header]
    for array in arrays.values():
        body += [
            np.ascontiguousarray(array).reshape(-1).view(np.uint8).data,
            bytes(_padded(array.nbytes) - array.nbytes),
        ]
    digest = hashlib.sha256()
    for piece in body:
        digest.update(piece)
    write_atomically(path, [_MAGIC, f"{digest.hexdigest()} ".encode(), *body], mode=mode)


def read_blob(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return `about` and the arrays, which share one buffer.

    Raises:
        Damaged: if the file is cut short or altered.
        Foreign: if the file was not written by `write_blob`.
        Untrusted: if another user could have written the file.
        OSError: if the file does not exist or cannot be read.
    """
    with open_trusted(path) as file:
        whole = np.fromfile(file, np.uint8)
    digest, length = _preamble(whole[:_START].tobytes())
    if hashlib.sha256(whole[_SUMMED:].data).hexdigest() != digest:
        raise Damaged
    header, arrays = _header(whole[_START:][:length].tobytes()), whole[_START + length :]
    return header["about"], {name: _array(arrays, *entry) for name, entry in header["arrays"].items()}


def read_about(path: Path) -> dict[str, Any]:
    """Return `about` without reading the arrays or testing the checksum; listings need no more.

    Raises:
        Damaged, Foreign, OSError: under the same conditions as `read_blob`.
    """
    with open(path, "rb") as file:
        _, length = _preamble(file.read(_START))
        return _header(file.read(length))["about"]


def _preamble(begin: bytes) -> tuple[str, int]:
    if not begin.startswith(_MAGIC):
        raise Damaged if _MAGIC.startswith(begin) else Foreign
    try:
        digest, length = begin[len(_MAGIC) :].decode().split(" ")
        return digest, int(length)
    except ValueError as error:
        raise Damaged from error


def _header(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        header["about"], header["arrays"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged from error
    return header


def _array(buffer: np.ndarray, dtype: str, shape: list[int], offset: int) -> np.ndarray:
    size = np.dtype(dtype).itemsize * int(np.prod(shape))
    return buffer[offset : offset + size].view(dtype).reshape(shape)


def _padded(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
