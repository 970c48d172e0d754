"""What servers have answered, on disk: a request that was answered is not sent, or paid for, again.

Each process appends to a file of its own in the folder, a line an answer, and reads those of all at the start, so that
any number of processes on any file system may share a folder.
"""

import hashlib
import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.storage.files import fsync_directory


def request_key(route: str, payload: Any) -> str:
    """sha256 of a request: the same for the same JSON, in whatever order its keys stand."""
    canonical = json.dumps([route, payload], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Journal:
    """The answers in `folder`, by `request_key`. One folder is for one service: keys do not tell servers apart.

    Raises:
        UserError: at construction if a line other than a file's last cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = threading.Lock()
        self._file: int | None = None
        self._answers: dict[str, Any] = {}
        for path in sorted(folder.glob("*.jsonl")):
            self._answers.update(_read(path))

    def __contains__(self, key: str) -> bool:
        return key in self._answers

    def __getitem__(self, key: str) -> Any:
        return self._answers[key]

    def add(self, key: str, answer: Any) -> None:
        """Keep an answer (JSON); it is on disk when this returns."""
        line = memoryview(json.dumps({"key": key, "answer": answer}).encode() + b"\n")
        with self._lock:
            if self._file is None:
                self._file = self._new_file()
            try:
                while line:
                    line = line[os.write(self._file, line) :]
                os.fsync(self._file)
            except OSError:
                self._file = None  # what follows must not be appended to half a line
                raise
            self._answers[key] = answer

    def _new_file(self) -> int:
        path = self.folder / f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:8]}.jsonl"
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o666)
        fsync_directory(self.folder)
        return file


def _read(path: Path) -> dict[str, Any]:
    answers = {}
    *whole, _ = path.read_bytes().split(b"\n")  # a writer that was killed may leave a last line without its end
    for number, line in enumerate(whole, 1):
        try:
            entry = json.loads(line)
            answers[entry["key"]] = entry["answer"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{path}: line {number} is damaged: remove that line, and its request is asked again"
            ) from error
    return answers
