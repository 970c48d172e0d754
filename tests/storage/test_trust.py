"""Hashes in the shared cache are used only if nobody else could have written them."""

import json
import os
from pathlib import Path

import pytest

from psychocounsel.storage.hashes import content_id
from psychocounsel.storage.trust import Untrusted, open_trusted


@pytest.mark.parametrize(
    ("mode", "owner", "is_used"),
    [(0o644, None, True), (0o664, None, False), (0o646, None, False), (0o644, 12345, False)],
)
def test_a_hash_is_taken_from_this_users_note_alone(
    mode: int, owner: int | None, is_used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if owner and os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    file = tmp_path / "data.jsonl"
    file.write_text("{}\n")
    monkeypatch.setattr("psychocounsel.storage.hashes._SETTLED_SECONDS", -1.0)
    known = content_id(tmp_path, [file], str(tmp_path / "cache"))
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    note.write_text(json.dumps(json.loads(note.read_text()) | {"id": "sha256:of another"}))
    note.chmod(mode)
    if owner:
        os.chown(note, owner, -1)
    assert content_id(tmp_path, [file], str(tmp_path / "cache")) == ("sha256:of another" if is_used else known)


def test_a_trusted_folder_is_trusted_with_all_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "entry").touch()
    (tmp_path / "entry").chmod(0o666)
    with pytest.raises(Untrusted, match="it can be written by everyone: if you trust it, put PSYCHOCOUNSEL_TRUST="):
        open_trusted(tmp_path / "entry")
    monkeypatch.setenv("PSYCHOCOUNSEL_TRUST", str(tmp_path))
    open_trusted(tmp_path / "entry").close()
