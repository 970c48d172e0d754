"""Tests which steps are due after an interrupted repetition, and after changed settings."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from omegaconf import DictConfig, OmegaConf

from psychocounsel.annotation.checking import prepare_annotation
from psychocounsel.annotation.forecast import forecast
from psychocounsel.annotation.steps import directory, do_steps, due_steps
from psychocounsel.asking.language_model import Answerer, LanguageModel
from psychocounsel.remote.hub import cache_directories
from psychocounsel.steps.course import StepContext
from tests.support.annotating import model_server, speeches
from tests.support.answering import Server
from tests.support.composed import check, compose
from tests.support.harness import write_jsonl
from tests.support.scripted import completion

COUNT = 6


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with model_server(change=silent) as found:
        yield found


def silent(payload: Any, number: int) -> Any:
    """Answers nothing."""
    return completion(" ", payload) if "say nothing" in payload["messages"][-1]["content"] else None


@pytest.fixture
def configured(tmp_path: Path, server: Server) -> Callable[..., DictConfig]:
    """Return a function that composes the configuration of one dataset with more overrides."""
    file, address = speeches(tmp_path / "speeches.jsonl", COUNT), f"[{server.address}/v1]"
    given = ["speeches=local", f"speeches.path={file}", "speeches.license=cc0-1.0", f"out={tmp_path}/out"]
    given += ["writers=local_vllm", "writers.model=w", "writers.terms=apache-2.0", f"writers.addresses={address}"]
    given += [
        "annotator=local_vllm",
        "annotator.model=a",
        f"annotator.addresses={address}",
        f"paths.cache={tmp_path}/c",
    ]
    given += ["replies.per_speech=2", "steps=[speeches,replies,scores,pairs]"]
    return lambda *more: check(compose([*given, *more], "annotate"))


def bar(items: Iterable[Any], *_: Any) -> Iterable[Any]:
    return items


def run(config: DictConfig, bar: Any = bar) -> None:
    do_steps(StepContext(config, directory(config), lambda line: None, bar), lambda step: None)


def due(config: DictConfig) -> list[str]:
    return [each.step for each in due_steps(config) if each.due]


def test_steps_after_an_interrupted_redo_are_due(configured: Callable[..., DictConfig]) -> None:
    def interrupted(items: Iterable[Any], what: str, *_: Any) -> Iterator[Any]:
        if what == "replies":
            raise KeyboardInterrupt
        yield from items

    run(configured())
    assert not due(configured())
    with pytest.raises(KeyboardInterrupt):
        run(configured("steps=[replies]", "replies.per_speech=3"), interrupted)
    run(configured("steps=[replies]"))  # restores the earlier replies from the journal
    assert due(configured()) == ["scores", "pairs"]
    run(configured())
    assert not due(configured())


def test_a_server_that_may_see_crises_after_all_is_asked(configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    text = "I do not want to live any more since my brother has left, and I have told nobody about it until today."
    write_jsonl(tmp_path / "speeches.jsonl", [{"text": text, "risk": "suicidal_thoughts"}])

    def outcomes(third_party: bool, *more: str) -> list[str]:
        config = configured("steps=[speeches,replies]", f"writers.third_party={third_party}", *more)
        run(config)
        assert not due(config)
        return list(pq.read_table(directory(config).replies)["outcome"].to_pylist())

    assert outcomes(True) == ["withheld"] * 2
    assert outcomes(False) == ["text"] * 2
    assert outcomes(True) == ["withheld"] * 2
    assert outcomes(True, "crisis_to_third_parties=true") == ["text"] * 2


def test_retries_of_ratings_change_a_finished_step_and_those_of_servers_do_not(
    configured: Callable[..., DictConfig],
) -> None:
    run(configured())
    of_servers = ["retries=3", "concurrency=2", "timeout_seconds=9", "input_price=1", "third_party=false"]
    assert not due(configured(*(f"{group}.{each}" for group in ("writers", "annotator") for each in of_servers)))
    assert due(configured("scores.retries=4")) == ["scores", "pairs"]
    assert due(configured("annotator.third_party=true")) == ["scores", "pairs"]


def test_empty_replies_are_not_due_for_ever(configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    text = (
        "Please say nothing to me about my brother, who left us in the winter, and whom I have not called since then."
    )
    write_jsonl(tmp_path / "speeches.jsonl", [{"text": text, "risk": "none"}])
    run(configured("steps=[speeches,replies]"))
    replies = pq.read_table(directory(configured()).replies)
    assert replies["outcome"].to_pylist() == ["unparsable"] * 2 and replies["text"].null_count == 2
    assert not due(configured("steps=[replies]")), "no call of this step has failed"


@dataclass(kw_only=True)
class OwnWriter(LanguageModel):
    """A user's own writer, which has no `model`."""

    def open(self, key: str) -> Answerer:
        raise AssertionError("a check opens no model")


def test_a_writer_of_ones_own_needs_no_model(configured: Callable[..., DictConfig], tmp_path: Path) -> None:
    config = configured("cluster=local")
    config.writers = OmegaConf.create({"_target_": f"{__name__}.OwnWriter", "name": "own", "terms": "apache-2.0"})
    prepare_annotation(config, tmp_path / "out")


def test_a_dry_run_counts_ratings_of_bought_replies_as_bought(
    configured: Callable[..., DictConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, folder in cache_directories(f"{tmp_path}/c").items():
        monkeypatch.setenv(name, folder)
    run(configured())
    lines = forecast(configured("replies.per_speech=3"))
    assert any(line.startswith(f"replies: {COUNT} calls, {2 * COUNT} bought before") for line in lines)
    rated = f"scores: {COUNT} calls, {COUNT} bought before"  # both replies of the writer to a speech are equal, so one is rated
    assert any(line.startswith(rated) for line in lines)


def test_a_new_directory_that_is_named_alone_says_that_it_holds_the_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped out= of an existing dataset begins another one."""
    for typed, said in (([f"out={tmp_path}/typo"], True), ([], False)):
        prepare_annotation(check(compose(typed, "annotate")), tmp_path / "typo")
        assert ("/typo: a new dataset of the shipped sample; speeches=FILE" in capsys.readouterr().out) is said
    (tmp_path / "typo").mkdir()
    (tmp_path / "typo" / "speeches.parquet").touch()
    prepare_annotation(check(compose([f"out={tmp_path}/typo"], "annotate")), tmp_path / "typo")
    assert "new dataset" not in capsys.readouterr().out
