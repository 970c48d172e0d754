"""Which speeches were removed from an annotate directory: hashes of their ids, which outlive the speeches."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.storage.files import write_atomically


def _digest(speech: str) -> str:
    return hashlib.sha256(speech.encode()).hexdigest()


class Tombstones:
    """The removed speeches of a directory: `speech in tombstones` says whether the speech of this id is one of them.

    Near duplicates that were dropped beside a removed speech have tombstones of their own, so none takes its place.
    """

    def __init__(self, path: Path, digests: Iterable[str] = ()) -> None:
        self.path, self.digests = path, set(digests)

    @classmethod
    def of(cls, files: AnnotationDir) -> "Tombstones":
        """Those of a directory; none where nothing was ever removed."""
        lines = files.removed.read_text().split() if files.removed.exists() else []
        return cls(files.removed, lines)

    def __contains__(self, speech: str) -> bool:
        return bool(self.digests) and _digest(speech) in self.digests

    def __len__(self) -> int:
        return len(self.digests)

    def add(self, speeches: Iterable[str]) -> None:
        """Note more speeches, on disk before this returns."""
        self.digests |= {_digest(speech) for speech in speeches}
        write_atomically(self.path, "".join(f"{digest}\n" for digest in sorted(self.digests)))
