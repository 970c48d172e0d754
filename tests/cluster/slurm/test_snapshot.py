"""The copy of the code for jobs has the files that git tracks and the imported modules, but no data next to them."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from psychocounsel.cluster.slurm import code_copies
from psychocounsel.errors import UserError

_HAS_GIT = subprocess.run("git --version", shell=True, capture_output=True).returncode == 0
_OWN = "def loss():\n    from helper import x\n    from .other import y\n"
_IMPORTED = ["helper.py", "own_algo.py", "own_package/__init__.py", "own_package/more/deep.py"]


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def users_folder(folder: Path) -> Path:
    """Return a folder with code that imports a helper inside a function, data, and code that nothing imports."""
    (folder / "own_package" / "more").mkdir(parents=True)
    for name in ("helper.py", "notes.py", "own_package/__init__.py", "own_package/more/deep.py"):
        (folder / name).write_text("x = 1\n")
    (folder / "own_algo.py").write_text(_OWN)
    (folder / "helper.py").write_text("import own_package\nimport json\n")
    (folder / "json.py").write_text("the library's own is meant\n")
    (folder / "own_package" / "settings.yaml").write_text("a: 1\n")
    for name in ("clients.jsonl", "clients.yaml", "own_package/clients.parquet", "own_package/clients.csv"):
        (folder / name).write_text("I told nobody so far\n")
    return folder


def names_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.skipif(not _HAS_GIT, reason="no git here")
def test_of_a_users_checkout_what_git_tracks_is_copied_and_what_is_imported(tmp_path: Path) -> None:
    mine = users_folder(tmp_path / "mine")
    (mine / "tracked.csv").write_text("1\n")
    (mine / "link.csv").symlink_to("clients.jsonl")
    (mine / "same.csv").symlink_to("tracked.csv")
    git(mine, "init", "-q")
    git(mine, "add", "own_algo.py", "tracked.csv", "link.csv", "same.csv")
    _, copy = code_copies.take(tmp_path / "run", [str(mine)], ["own_algo.Algo"], 200)
    assert names_below(copy) == sorted([*_IMPORTED, "tracked.csv", "same.csv"]), "no data that git does not track"
    assert code_copies.take(tmp_path / "run", [str(mine)], ["own_algo.Algo"], 200)[1] == copy
    (mine / "own_package" / "__init__.py").write_text("x = 2\n")
    assert code_copies.take(tmp_path / "run", [str(mine)], ["own_algo.Algo"], 200)[1] != copy
    assert (copy / "own_package" / "__init__.py").read_text() == "x = 1\n"


def test_outside_of_a_checkout_imported_code_is_copied_and_nothing_without_any(tmp_path: Path) -> None:
    mine = users_folder(tmp_path / "mine")
    package, copy = code_copies.take(tmp_path / "run", [str(mine)], ["own_algo.Algo"], 200)
    assert names_below(copy) == sorted([*_IMPORTED, "own_package/settings.yaml"]), "Python files and configurations"
    assert (package / "psychocounsel" / "worker.py").exists()
    assert len(code_copies.take(tmp_path / "run", [str(mine)], ["psychocounsel.algo.dpo.DPO"], 200)) == 1


def test_of_the_package_no_data_are_copied_that_lie_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is copied as installed, without git, and from a checkout with a module that git does not track yet."""
    place = tmp_path / "site"
    shutil.copytree(code_copies.PACKAGE, place / "psychocounsel", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code_copies, "PACKAGE", place / "psychocounsel")
    before = names_below(place)
    (place / "psychocounsel" / "clients.jsonl").write_text("I told nobody so far\n")
    (copy,) = code_copies.take(tmp_path / "run", [], [], 200)
    assert names_below(copy) == [name for name in before if not name.endswith(".md")]
    if _HAS_GIT:
        git(place, "init", "-q")
        git(place, "add", *(name for name in before if not name.endswith("worker.py")))
        (copy,) = code_copies.take(tmp_path / "run", [], [], 200)
        assert names_below(copy) == before


@pytest.mark.skipif(not _HAS_GIT, reason="no git here")
def test_own_code_in_a_folder_of_the_packages_checkout_can_be_imported_by_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "checkout"
    (place / "psychocounsel").mkdir(parents=True)
    (place / "psychocounsel" / "errors.py").touch()
    monkeypatch.setattr(code_copies, "PACKAGE", place / "psychocounsel")
    git(place, "init", "-q")
    git(place, "add", ".")
    users_folder(place / "my")
    package, mine = code_copies.take(tmp_path / "run", [str(place / "my"), str(place)], ["own_algo.Algo"], 200)
    assert mine == package / "my" and names_below(mine) == _IMPORTED


def test_a_copy_that_would_be_large_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"more than cluster.snapshot_limit_mb=1: .*model\.safetensors"):
        code_copies.take(tmp_path, [], [], 1)


def test_a_copy_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = users_folder(tmp_path / "mine")
    home = tmp_path / "run"
    code_copies.take(home, [], [], 200)
    before = names_below(home)
    (mine / "own_package" / "more" / "deep.py").write_text("x = 'no room'\n")
    copy = shutil.copy

    def full(source: Path, target: Path) -> object:
        if source.name == "deep.py":
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(source, target)

    monkeypatch.setattr(code_copies.shutil, "copy", full)
    with pytest.raises(OSError, match="No space left"):
        code_copies.take(home, [str(mine)], ["own_algo.Algo"], 200)
    assert names_below(home) == before and not [*home.rglob(".*.tmp")]


def test_a_copy_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = users_folder(tmp_path / "mine")
    synced, fsync = set(), os.fsync

    def noted(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    _, copy = code_copies.take(tmp_path / "run", [str(mine)], ["own_algo.Algo"], 200)
    drafts = {path.partition(".tmp/")[2] for path in synced if f".{copy.name}." in path}
    assert set(names_below(copy)) <= drafts
