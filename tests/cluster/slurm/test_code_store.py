"""Sweeps share copies of the code: each content has one copy, which is kept while a submission names it."""

import json
import multiprocessing
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from psychocounsel.cluster.archive import archive
from psychocounsel.cluster.slurm import code_copies
from psychocounsel.cluster.slurm.code_copies import copies_used, remove_unused, store_of, use_copy
from psychocounsel.errors import UserError
from psychocounsel.rundir import submissions
from psychocounsel.rundir.run_config import write_config, write_job
from psychocounsel.rundir.sweep import add_to_table
from tests.support.composed import check, compose


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a package of one file that replaces the real package, because copying that takes seconds."""
    place = tmp_path / "site" / "psychocounsel"
    place.mkdir(parents=True)
    (place / "errors.py").write_text("x = 1\n")
    monkeypatch.setattr(code_copies, "PACKAGE", place)
    return place


def submit(home: Path) -> Path:
    """Record a submission from `home` without jobs, and return the folder of its code."""
    store = store_of(home, home.parent)
    (code,) = use_copy(store, home, [], [], 200)
    made = submissions.new_submission(home)
    submissions.write(made, home, ["1"], [[home / "run"]], [code])
    return code


def copies(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".code-*/*-*") if path.suffix != ".used-by")


def test_sweeps_share_a_copy_and_changed_code_makes_another(package: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first, second = submit(runs / "a"), submit(runs / "b")
    assert first == second and len(copies(runs)) == 1
    (package / "errors.py").write_text("x = 2\n")
    third = submit(runs / "c")
    assert third != first and (first / "psychocounsel" / "errors.py").read_text() == "x = 1\n"
    assert copies(runs) == sorted([first.name, third.name])
    record = json.loads((runs / "b" / "submissions" / "0001" / "submission.json").read_text())
    assert record["code"] == [f"../{first.parent.name}/{first.name}"]
    assert copies_used(runs / "b") == {first}


def test_a_new_copy_in_a_folder_that_others_can_change_is_refused(package: Path, tmp_path: Path) -> None:
    store = store_of(tmp_path / "runs" / "a", tmp_path / "runs")
    store.mkdir(parents=True)
    store.chmod(0o777)
    with pytest.raises(UserError, match=f"^{store}: can be written by everyone, and code and weights would be loaded"):
        submit(tmp_path / "runs" / "a")


def test_a_copy_goes_with_the_last_folder_that_uses_it(package: Path, tmp_path: Path) -> None:
    import shutil

    runs = tmp_path / "runs"
    code = submit(runs / "a")
    submit(runs / "b")
    for home, is_kept in (("a", True), ("b", False)):
        shutil.rmtree(runs / home)
        remove_unused(code.parent)
        assert code.is_dir() == is_kept
    assert not code.parent.exists(), "an empty store goes as well"


def test_copying_again_removes_what_nobody_uses(package: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    use_copy(store_of(runs / "a", runs), runs / "a", [], [], 200)  # and no submission followed
    (package / "errors.py").write_text("x = 2\n")
    second = submit(runs / "b")
    assert copies(runs) == [second.name]


def test_processes_that_copy_at_once_make_one_copy(package: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with multiprocessing.get_context("fork").Pool(4) as pool:
        made = pool.map(submit, [runs / name for name in "abcd"])
    assert len(set(made)) == 1 and copies(runs) == [made[0].name]
    assert {path.name for path in made[0].parent.iterdir()} == {made[0].name, f"{made[0].name}.used-by"}


def test_copies_lie_in_the_output_folder_or_beside_the_outermost_run(tmp_path: Path) -> None:
    runs, name = tmp_path / "runs", store_of(tmp_path / "a", tmp_path).name
    assert store_of(runs / "deep" / "a", runs) == runs / name
    assert store_of(tmp_path / "elsewhere" / "a", runs) == tmp_path / "elsewhere" / name
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "job.json").touch()  # a run whose shards are submitted from a folder in it
    assert store_of(tmp_path / "data" / "shards", runs) == tmp_path / name


def test_an_archive_counts_the_code_before_it_copies(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "large.py").write_text("x = 1\n" * 20_000)
    home, to = tmp_path / "runs" / "home", tmp_path / "kept"
    (home / "run").mkdir(parents=True)
    write_job(home / "run", "psychocounsel.train", 0, [])
    write_config(home / "run", check(compose([f"run_dir={home / 'run'}"])))
    add_to_table(home, [(home / "run", ["seed=1"])])
    submit(home)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))  # less than the code
    with pytest.raises(UserError, match=r"1\d\d\.\d kB do not fit into .*, where 100.0 kB are free"):
        archive(home, to)
    assert not to.exists()
