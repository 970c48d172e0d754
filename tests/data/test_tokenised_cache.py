"""Cached tokenised data equal freshly tokenised data, as long as nothing that affects them changes."""

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from psychocounsel.data import dataset, tokenised_cache
from psychocounsel.data.dataset import Dataset, build_dataset
from psychocounsel.data.group import Completion, Group
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.data.tokenised_cache import flatten, unflatten
from psychocounsel.errors import UserError
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.storage import blob
from tests.support.composed import check, compose
from tests.support.harness import TINY, write_jsonl
from tests.support.processes import FORKED


def rows(count: int = 12, reply: str = "Since when?") -> list[dict[str, Any]]:
    return [
        {"id": n, "prompt": f"I can't sleep ({n % 8}).", "chosen": f"{reply} {n}", "rejected": f"Sleep well. {n}"}
        for n in range(count)
    ]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "data.jsonl", rows())
    return tmp_path


def make(home: Path, *overrides: str, kind: str = "pairs", chat: ChatFormat | None = None) -> tuple[Dataset, list[str]]:
    said: list[str] = []
    given = ["data=local", f"data.path={home / 'data.jsonl'}", f"paths.cache={home / 'cache'}", *overrides]
    config = check(compose(given))
    return build_dataset(config, chat or load_chat_format(config.model)[1], kind, said.append), said


def chat_format(**args: Any) -> ChatFormat:
    return ChatFormat(AutoTokenizer.from_pretrained(TINY), args, "tiny")


def entries(home: Path) -> list[Path]:
    return sorted(home.glob("cache/tokenised/*"))


def plain(groups: list[Group]) -> list[Any]:
    """Return everything in the groups, with types, in a comparable form."""

    def value(item: Any) -> Any:
        return (str(item.dtype), item.tolist()) if isinstance(item, np.ndarray) else (type(item).__name__, item)

    return [
        (
            value(group.id),
            value(group.prompt_ids),
            value(group.prompt_text),
            [{name: value(item) for name, item in vars(reply).items()} for reply in group.completions],
        )
        for group in groups
    ]


def assert_same(one: tuple[Dataset, list[str]], other: tuple[Dataset, list[str]]) -> None:
    assert one[1] == other[1]
    assert one[0].fingerprint() == other[0].fingerprint()
    assert plain(one[0].train) == plain(other[0].train) and plain(one[0].held_out) == plain(other[0].held_out)


@pytest.mark.parametrize("kind", ["pairs", "completions", "labelled"])
def test_a_hit_is_a_miss_without_the_work(kind: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ["data=sample", "data.path=builtin:sample", "max_length=300", "data.too_long=shorten"]
    miss_chat, hit_chat = chat_format(), chat_format()
    miss = make(home, *short, kind=kind, chat=miss_chat)
    assert any("rows" in line for line in miss[1])
    monkeypatch.setattr(dataset, "load_split", pytest.fail)
    hit = make(home, *short, kind=kind, chat=hit_chat)
    assert_same(hit, miss)
    assert hit_chat.end_tokens == miss_chat.end_tokens != set()
    limited = make(home, *short, "eval.limit=3", kind=kind)
    assert plain(limited[0].held_out) == plain(miss[0].held_out[:3])
    assert len(entries(home)) == 1


def test_groups_of_any_form_come_back() -> None:
    ids = np.array([3, 1, 2], np.int32)
    groups = [
        Group("a", ids, [Completion(ids[:1], "x", reward=1.25, label=True), Completion(ids, "é\ud800")], "p"),
        Group("", ids, [], "p"),
        Group("b", ids[:2], [Completion(ids[:0], "", reward=0.1 + 0.2, label=False)], "q"),
        Group("session", ids, [Completion(ids, trained=np.array([True, False, True])), Completion(ids[:2])], "q"),
    ]
    assert plain(unflatten(flatten(groups))) == plain(groups)
    assert unflatten(flatten([])) == []
    again = unflatten(flatten(groups))
    assert again[0].prompt_ids is again[1].prompt_ids, "each prompt is stored once"


CHANGES = [
    ["max_length=512"],
    ["max_prompt_length=100"],
    ["data.too_long=shorten"],
    ["model.system_prompt=Be kind."],
    ["data.limit=5"],
    ["data.split_seed=1"],
    ["data.dev_fraction=0.3"],
]


def test_every_change_of_what_decides_the_tokens_makes_a_new_entry(home: Path) -> None:
    made = [make(home)]
    for count, overrides in enumerate(CHANGES, 2):
        made.append(make(home, *overrides))
        assert len(entries(home)) == count, overrides
    make(home, kind="labelled")
    template = chat_format()
    template.tokenizer.chat_template += "{# another #}"
    make(home, chat=template)
    make(home, chat=chat_format(date_string="1 May 2025"))
    vocabulary = chat_format()
    vocabulary.tokenizer.add_tokens(["sleep"])
    make(home, chat=vocabulary)
    tail = chat_format()
    tail.keep_tail = True
    make(home, chat=tail)
    count = len(CHANGES) + 6
    assert len(entries(home)) == count
    assert_same(make(home), made[0])
    make(home, "eval.limit=1", "seed=9", "algo.beta=0.5", "data.name=other")
    assert len(entries(home)) == count, "a setting without effect makes no new entry"


def test_changed_source_files_are_noticed(home: Path) -> None:
    first = make(home)
    write_jsonl(home / "data.jsonl", rows(reply="Since why?"))  # the same number of bytes
    changed = make(home)
    assert changed[0].fingerprint() != first[0].fingerprint()
    write_jsonl(home / "data.jsonl", rows())
    assert_same(make(home), first)
    (home / "more").mkdir()
    folder = ["data.path=" + str(home / "more")]
    write_jsonl(home / "more" / "a.jsonl", rows(6))
    few = make(home, *folder)[0]
    write_jsonl(home / "more" / "b.jsonl", rows(12)[6:])
    assert len(make(home, *folder)[0].train) > len(few.train)


def test_errors_are_those_of_the_data_and_leave_nothing(home: Path) -> None:
    write_jsonl(home / "data.jsonl", [*rows(), {"prompt": "x", "chosen": "y"}])
    for _ in range(2):
        with pytest.raises(UserError, match="data.jsonl line 13: has no rejected"):
            make(home)
    assert entries(home) == []


# -- several processes


def build_slowly(home: Path, gate: object, results: object) -> None:
    load_split = dataset.load_split

    def slow(*arguments: Any) -> Any:
        results.put("tokenised")  # type: ignore[attr-defined]
        time.sleep(1.0)
        return load_split(*arguments)

    dataset.load_split = slow
    chat = chat_format()
    gate.wait()  # type: ignore[attr-defined]
    data, said = make(home, chat=chat)
    results.put((data.fingerprint(), said))  # type: ignore[attr-defined]


@pytest.mark.slow
def test_of_many_at_once_one_tokenises_and_the_others_wait(home: Path) -> None:
    gate, results = FORKED.Barrier(5), FORKED.Queue()
    processes = [FORKED.Process(target=build_slowly, args=(home, gate, results)) for _ in range(4)]
    for process in processes:
        process.start()
    gate.wait()
    outcomes = [results.get(timeout=120) for _ in range(5)]
    for process in processes:
        process.join()
    assert outcomes.count("tokenised") == 1
    assert len({json.dumps(outcome) for outcome in outcomes if outcome != "tokenised"}) == 1
    assert len(entries(home)) == 1, "no lock remains"


def die_writing(home: Path, place: str) -> None:
    def die(path: Path, pieces: Any, **_: Any) -> None:
        if place == "half written":
            path.with_name(f".{path.name}.{'0' * 32}.tmp").write_bytes(b"".join(map(bytes, pieces))[:1000])
        os.kill(os.getpid(), signal.SIGKILL)

    blob.write_atomically = die
    make(home)


@pytest.mark.parametrize("place", [pytest.param("before", marks=pytest.mark.slow), "half written"])
def test_a_killed_writer_is_no_hindrance(place: str, home: Path) -> None:
    process = FORKED.Process(target=die_writing, args=(home, place))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert any(path.suffix == ".lock" for path in entries(home))
    assert_same(make(home), make(home))
    assert len([path for path in entries(home) if path.suffix == ".groups"]) == 1


# -- damaged and foreign files


def test_a_damaged_entry_is_said_and_made_again(home: Path) -> None:
    miss = make(home)
    (entry,) = entries(home)
    content = bytearray(entry.read_bytes())
    content[-100] ^= 1
    entry.write_bytes(content)
    again, said = make(home)
    assert said == [f"{entry}: is damaged; tokenising again", *miss[1]]
    assert_same((again, miss[1]), miss)
    assert_same(make(home), miss)
    entry.write_bytes(content[:50])
    assert "damaged" in make(home)[1][0]


def test_a_foreign_file_is_left_alone(home: Path) -> None:
    miss = make(home)
    (entry,) = entries(home)
    whole = entry.read_bytes()
    entry.write_bytes(b"my own notes")
    again, said = make(home)
    assert said == [f"{entry}: cannot be used (it is not a file of this cache); tokenising without it", *miss[1]]
    assert_same((again, miss[1]), miss)
    assert entry.read_bytes() == b"my own notes"
    make(home, "max_length=512")
    (other,) = (path for path in entries(home) if path != entry)
    entry.write_bytes(whole)
    other.write_bytes(whole)
    assert "not a file of this cache" in make(home, "max_length=512")[1][0], "complete, but of other data"


def test_a_cache_that_cannot_be_used_is_done_without(home: Path) -> None:
    miss = make(home)
    (home / "cache").rename(home / "old")
    (home / "cache").mkdir()
    (home / "cache" / "tokenised").write_text("in the way")
    again, said = make(home)
    assert "cannot be used" in said[0]
    assert_same((again, said[1:]), miss)


def test_who_may_not_read_the_source_may_not_read_the_entry(home: Path) -> None:
    (home / "data.jsonl").chmod(0o600)
    make(home)
    (entry,) = entries(home)
    assert entry.stat().st_mode & 0o777 == 0o600
    assert tokenised_cache.ENTRY.fullmatch(entry.name)


def given_away(path: Path) -> None:
    os.chown(path, 12345, -1)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o666)
    path.chmod(0o666)


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        pytest.param(
            given_away,
            "it belongs to another user (number 12345)",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away"),
        ),
        (lambda path: path.chmod(0o664), "it can be written by its group"),
        (lambda path: path.chmod(0o646), "it can be written by everyone"),
        (piped, "it can be written by everyone"),
    ],
    ids=["another user's", "the group's", "everyone's", "a pipe"],
)
def test_an_entry_that_another_user_could_have_written_is_not_used(
    alter: Any, reason: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = make(home)
    (entry,) = entries(home)
    poisoned = make(home, "data.split_seed=7")
    (other,) = {*entries(home)} - {entry}
    os.replace(other, entry)
    whole = entry.read_bytes().replace(other.stem.encode(), entry.stem.encode())  # the content of the other entry
    preamble = blob._SUMMED
    digest = hashlib.sha256(whole[preamble:]).hexdigest().encode()
    entry.write_bytes(whole[: preamble - 65] + digest + whole[preamble - 1 :])
    assert make(home)[0].fingerprint() == poisoned[0].fingerprint(), "it would be used"
    alter(entry)
    again, said = make(home)
    assert again.fingerprint() == fresh[0].fingerprint()
    assert said[0] == (
        f"{entry}: cannot be used ({reason}: if you trust it, put PSYCHOCOUNSEL_TRUST={entry.parent} before the command); "
        "tokenising without it"
    )
    if entry.is_file():
        monkeypatch.setenv("PSYCHOCOUNSEL_TRUST", str(home / "cache"))
        assert make(home)[0].fingerprint() == poisoned[0].fingerprint()


def test_entries_are_for_their_user_alone_to_write_whatever_the_umask(home: Path) -> None:
    before = os.umask(0o002)
    try:
        make(home)
        (entry,) = entries(home)
        assert entry.stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)
