"""Tombstones: hashes of the ids of removed speeches, kept in the annotate directory after the speeches are gone."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.storage.files import write_atomically


def _digest(speech: str) -> str:
    return hashlib.sha256(speech.encode()).hexdigest()


class Tombstones:
    """The set of removed speeches of a directory; `speech in tombstones` tests an id.

    Near duplicates of a removed speech have their own tombstones, so none of them takes its place.
    """

    def __init__(self, path: Path, digests: Iterable[str] = ()) -> None:
        self.path, self.digests = path, set(digests)

    @classmethod
    def of(cls, files: AnnotationDir) -> "Tombstones":
        """Return the tombstones of a directory; empty if nothing was ever removed."""
        lines = files.removed.read_text().split() if files.removed.exists() else []
        return cls(files.removed, lines)

    def __contains__(self, speech: str) -> bool:
        return bool(self.digests) and _digest(speech) in self.digests

    def __len__(self) -> int:
        return len(self.digests)

    def add(self, speeches: Iterable[str]) -> None:
        """Add speeches; the file is on disk when this returns."""
        self.digests |= {_digest(speech) for speech in speeches}
        write_atomically(self.path, "".join(f"{digest}\n" for digest in sorted(self.digests)))
