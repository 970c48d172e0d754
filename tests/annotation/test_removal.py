"""`remove=ids.txt` leaves a directory as if the speeches had never existed, and finds copies and runs of the dataset."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from omegaconf import OmegaConf

from psychocounsel.annotation import card as card
from psychocounsel.annotation.removal import Tombstones, finish, remove
from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.data.dataset import build_dataset
from psychocounsel.errors import UserError
from psychocounsel.experts.review.blind_review import BlindReview
from psychocounsel.experts.review.log import AdverseEvents
from psychocounsel.experts.review.plan import open_plan
from psychocounsel.experts.settings import read_review
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.remote.journal import Journal, request_key
from psychocounsel.rundir.paths import AnnotationDir, ReviewDir
from psychocounsel.steps.course import StepContext
from psychocounsel.storage.files import read_mapping
from tests.annotation.speeches.speech_files import jsonl, made
from tests.support.annotated_dir import annotated, double_of, id_of, rows_of, text_of, words_of
from tests.support.annotation_tables import context as context_of
from tests.support.composed import check, compose
from tests.support.harness import ROOT
from tests.support.preferences import text

# `remove=ids.txt` leaves a directory as if the speeches had never existed, and finds copies and runs of the dataset.

CLIENTS, GONE = range(4), (1, 2)  # too few for an audit, which is not tested here
CARD: dict[str, Any] = {"name": None, "license": None}


def context(files: AnnotationDir, ids: Path | None, said: list[str] | None = None) -> StepContext[AnnotationDir]:
    paths = {"output": str(files.path.parent / "runs"), "cache": str(files.path.parent / "cache")}
    return context_of(files, said, remove=None if ids is None else str(ids), paths=paths, card=CARD)


def id_file(folder: Path, clients: Any) -> Path:
    file = folder / "ids.txt"
    file.write_text("\n".join([*map(id_of, clients), "", id_of(GONE[0])]) + "\n")
    return file


def tables(files: AnnotationDir) -> dict[str, Any]:
    return {str(path.relative_to(files.path)): rows_of(path) for path in sorted(files.path.rglob("*.parquet"))}


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AnnotationDir:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    return annotated(tmp_path / "out", CLIENTS)


def test_nothing_of_the_removed_is_left_and_all_else_is_as_if_they_had_never_been(
    files: AnnotationDir, tmp_path: Path
) -> None:
    (files.path / ".replies.parquet.0123.tmp").write_text(text_of(1))  # a partial table of a killed step
    (half,) = (files.answers / "scores").glob("*.jsonl")
    half.write_bytes(half.read_bytes() + f'{{"key": "{text_of(2)}'.encode())
    mode = 0o640
    files.replies.chmod(mode)
    said: list[str] = []
    remove(context(files, id_file(tmp_path, GONE), said))
    words = words_of(files.path)
    for client in CLIENTS:
        assert (text_of(client) in words) == (client not in GONE)
        for identity in (id_of(client), double_of(client)):
            assert (identity in words) == (client not in GONE)
    never = annotated(tmp_path / "never", [client for client in CLIENTS if client not in GONE])
    assert tables(files) == tables(never)
    assert files.replies.stat().st_mode & 0o777 == mode
    for part in ("replies", "scores"):
        journal = Journal(files.answers / part)
        kept = [client for client in CLIENTS if journal.get(request_key(part, client))]
        assert kept == [client for client in CLIENTS if client not in GONE]
    assert not files.identifier_sample.exists()
    (line,) = [text for text in said if text.startswith("removed: ")]
    assert line.startswith(
        "removed: 20 table rows, 4 journal answers, 0 cached copies; in total 4 speeches, near duplicates included,"
    )


def test_a_review_by_experts_forgets_the_removed(files: AnnotationDir, tmp_path: Path) -> None:
    """Items, their answers and the table with texts are deleted; answers about other clients stay."""
    config = read_review([f"data={files.path}", "experts=[e01]", "review.practice=0", "review.crisis_in_a_row=99"])
    review_files = ReviewDir.of(files.path)
    review_files.path.mkdir()
    plan = open_plan(config, review_files, lambda line: None)
    adverse = AdverseEvents(review_files.adverse_events, [], print)
    review = BlindReview(plan, review_files, config.review, load_rubric(), "Do you agree?", adverse)
    review.agree("e01")
    given: dict[str, Any] = {"choice": "left", "ratings": {}, "safety": {}, "seconds": 9.0}
    for shown in review.raters["e01"].shown:
        review.answer("e01", shown, {**given, "comment": f"about {review.item(shown).prompt[0]['content']}"})
    review.close()
    said: list[str] = []
    remove(context(files, id_file(tmp_path, GONE), said))
    assert any("expert review: " in line and "with all their answers" in line for line in said)
    for path in (files.path, review_files.path):
        words = words_of(path)
        assert [client for client in CLIENTS if text_of(client) in words] == [0, 3]


def test_records_and_card_are_made_anew(files: AnnotationDir, tmp_path: Path) -> None:
    remove(context(files, id_file(tmp_path, GONE)))
    record = read_mapping(files.step("pairs"))
    trained = len(rows_of(files.dataset / "train.parquet"))
    assert record["fingerprint"] == "f" and record["removed_speeches"] == 4
    assert record["figures"]["train"] == {"pairs": trained, "agreement": {"unanimous": trained}}
    assert f"| train | {trained} | {trained // 2} |" in (files.dataset / "README.md").read_text()
    assert read_mapping(files.step("removal"))["done"] is True


def test_tombstones_know_the_removed_and_hold_no_ids(files: AnnotationDir, tmp_path: Path) -> None:
    remove(context(files, id_file(tmp_path, GONE)))
    tombstones = Tombstones.of(files)
    for identity in (id_of, double_of):
        assert [client for client in CLIENTS if identity(client) in tombstones] == list(GONE)
    assert id_of(1) not in files.removed.read_text()
    assert len(Tombstones.of(AnnotationDir(tmp_path / "other"))) == 0


def test_a_second_removal_adds_to_the_first_and_the_same_again_changes_nothing(
    files: AnnotationDir, tmp_path: Path
) -> None:
    remove(context(files, id_file(tmp_path, [1])))
    first = content(files.path)
    assert remove(context(files, tmp_path / "ids.txt"))["removed"] == 2
    assert content(files.path) == first
    (tmp_path / "ids.txt").write_text(id_of(2))
    assert remove(context(files, tmp_path / "ids.txt"))["removed"] == 4
    never = annotated(tmp_path / "never", [client for client in CLIENTS if client not in GONE])
    assert tables(files) == tables(never)


def test_a_near_duplicate_of_a_removed_speech_stays_away_once_the_source_is_cleaned(tmp_path: Path) -> None:
    rng, source = np.random.default_rng(0), tmp_path / "forum.jsonl"
    words = text(rng, 40).split()
    near = " ".join([*words[:20], "else", *words[21:]])
    rows = [{"id": "a", "text": " ".join(words)}, {"id": "near", "text": near}]
    rows += [{"id": f"other{number}", "text": text(rng, 40)} for number in range(2)]
    _, files, _ = made(tmp_path / "out", path=str(jsonl(source, rows)), language="en")
    (gone,) = [row["speech"] for row in rows_of(files.speeches) if row["row"] == "a"]
    (double,) = [row["speech"] for row in rows_of(files.dropped_speeches) if row["of"] == gone]
    (tmp_path / "ids.txt").write_text(gone)
    remove(context(files, tmp_path / "ids.txt"))
    assert rows_of(files.dropped_speeches) == []
    for cleaned in (rows, rows[1:]):
        made(tmp_path / "out", path=str(jsonl(source, cleaned)), language="en")
        assert {row["row"] for row in rows_of(files.speeches)} == {"other0", "other1"}
        assert {row["reason"] for row in rows_of(files.dropped_speeches)} == {"removed"}
        assert not any(identity in words_of(files.path) for identity in (gone, double))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            [id_of(0), "", "nobody", "0000000000000000"],
            r"2 of 3 ids belong to no speech in .*line 3\), so nothing was removed",
        ),
        (["", " "], r"holds no id; write one id per line"),
    ],
)
def test_unknown_ids_are_refused_before_anything_is_touched(
    files: AnnotationDir, tmp_path: Path, lines: list[str], expected: str
) -> None:
    before = content(files.path)
    (tmp_path / "ids.txt").write_text("\n".join(lines))
    with pytest.raises(UserError, match=expected):
        remove(context(files, tmp_path / "ids.txt"))
    assert content(files.path) == before


def test_cached_copies_of_the_dataset_go_and_others_stay(files: AnnotationDir, tmp_path: Path) -> None:
    other = annotated(tmp_path / "out2", range(10, 14))
    cache = tmp_path / "cache"
    chat = load_chat_format(check(compose([])).model)[1]
    for each, paths in ((files, ("", "train.parquet")), (other, ("",))):
        card.run(context(each, None))
        for path in paths:
            config = check(
                compose(["algo=dpo", "data=local", f"data.path={each.dataset / path}", f"paths.cache={cache}"])
            )
            build_dataset(config, chat, "pairs", lambda line: None)
    assert len(list((cache / "tokenised").glob("*.groups"))) == 3
    assert text_of(1) in words_of(tmp_path / "hf") and text_of(1) in words_of(cache)
    counts = remove(context(files, id_file(tmp_path, GONE)))
    assert counts["copies"] == 3  # one tokenised copy for each path, and one of `datasets`
    assert len(list((cache / "tokenised").glob("*.groups"))) == 1
    words = words_of(cache) + words_of(tmp_path / "hf")
    assert [client for client in (*CLIENTS, *range(10, 14)) if text_of(client) in words] == list(range(10, 14))


def run_dir(folder: Path, config: dict[str, Any], *made: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "job.json").write_text("{}")
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    for name in made:
        (folder / name).mkdir()
    return folder


def test_runs_that_used_the_dataset_or_a_model_that_did_are_listed(files: AnnotationDir, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    direct = run_dir(
        runs / "sweep" / "0", {"data": {"path": str(files.dataset), "mix": []}}, "model", "export", "checkpoints"
    )
    mixed = run_dir(runs / "mixed", {"data": {"path": None, "mix": [{"path": f"{files.dataset}/train.parquet"}]}})
    child = run_dir(
        runs / "a_child", {"model": {"path": f"{mixed}/model"}, "data": {"path": "builtin:sample"}}, "model"
    )
    run_dir(runs / "apart", {"data": {"path": f"{files.dataset}-of-others/train.parquet"}}, "model")
    run_dir(runs / "waits", {"data": {"path": "builtin:sample"}, "after": [str(direct)]}, "model")
    said: list[str] = []
    remove(context(files, id_file(tmp_path, GONE), said))
    users = read_mapping(files.step("removal"))["used_by"]
    assert users == {
        str(direct): [str(direct / name) for name in ("model", "export", "checkpoints")],
        str(mixed): [],
        str(child): [str(child / "model")],
    }
    assert any("weights in model, export, checkpoints" in line for line in said)
    assert said[-1].startswith("Weights are not changed")


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
import datasets
from tests.annotation.test_removal import context
from psychocounsel.annotation.removal import finish, remove
from psychocounsel.rundir.paths import AnnotationDir

EVENTS = ("os.rename", "os.remove", "os.truncate", "shutil.rmtree")
for place in {places}:
    if os.fork() == 0:
        files, seen = AnnotationDir(Path({folder!r}, str(place), "out")), [0]
        datasets.config.HF_DATASETS_CACHE = files.path.parent / "hf"
        def kill(event, arguments):
            if event in EVENTS:
                seen[0] += 1
                if seen[0] > place:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill)
        remove(context(files, Path({ids!r})))
        os._exit(0)
    print(os.WTERMSIG(os.wait()[1]), flush=True)
"""


@pytest.mark.parametrize(
    "places", [(2, 5, 8), pytest.param(tuple(range(12)), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_removal_killed_anywhere_is_finished_by_the_same_command_or_by_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: tuple[int, ...]
) -> None:
    ids = id_file(tmp_path, GONE)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    for place in ("whole", *places):
        annotated(tmp_path / str(place) / "out", CLIENTS)
    whole = AnnotationDir(tmp_path / "whole" / "out")
    remove(context(whole, ids))
    root = str(ROOT)
    script = KILLED.format(root=root, places=places, folder=str(tmp_path), ids=str(ids))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["9"] * len(places), "a process ended before it was killed"
    for place in places:
        files = AnnotationDir(tmp_path / str(place) / "out")
        if place % 2 and files.removed.exists():
            assert finish(context(files, None)), "like every other command at its start"
        else:
            remove(context(files, ids))
        assert tables(files) == tables(whole), place
        words = words_of(files.path)
        assert not any(text_of(client) in words or id_of(client) in words for client in GONE), place
        assert (files.dataset / "README.md").read_bytes() == (whole.dataset / "README.md").read_bytes()
        assert files.removed.read_bytes() == whole.removed.read_bytes()
        assert not list(files.path.rglob(".*.tmp"))


def test_content_of_the_hash_is_that_of_the_id() -> None:
    """Another program can test whether an id was removed: each line is the sha256 of an id."""
    tombstones = Tombstones(Path("unused"), [hashlib.sha256(b"0123456789abcdef").hexdigest()])
    assert "0123456789abcdef" in tombstones and "fedcba9876543210" not in tombstones
