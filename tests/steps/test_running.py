"""Stop requests wait for answers under way until the grace period ends. The advice after failed calls can be typed."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from psychocounsel.errors import CONTINUE_LATER, DONE
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import check_steps
from psychocounsel.steps.plan import failed_calls
from psychocounsel.steps.running import TimedBar, _to_repeat, grace_of, progress_line
from tests.support.contests import contest
from tests.support.harness import ROOT

_SCRIPT = """
import sys, time
from pathlib import Path
from psychocounsel.steps.running import stoppable
try:
    with stoppable(Path(sys.argv[1]), float(sys.argv[2]), lambda: print("too late", flush=True)):
        try:
            print("ready", flush=True)
            for _ in range(600):
                time.sleep(0.1)  # CPython misses a signal that comes just before a sleep, until it ends
        finally:
            time.sleep(1.0)
            print("kept", flush=True)
except KeyboardInterrupt:
    pass
"""


@pytest.mark.parametrize(("seconds", "said", "code"), [(30.0, "kept\n", DONE), (0.2, "too late\n", CONTINUE_LATER)])
def test_what_is_under_way_is_kept_within_the_time_for_it(tmp_path: Path, seconds: float, said: str, code: int) -> None:
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == said and process.returncode == code


def test_answers_are_waited_for_as_long_as_a_model_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    members = [{"name": "a", "timeout_seconds": 90.0}, {"name": "tiny"}]
    config = OmegaConf.create({"writers": {"members": members}, "annotator": {"timeout_seconds": 300.0}})
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert 300 < grace_of(config) < 360
    assert grace_of(OmegaConf.create({"writers": {"name": "tiny"}, "annotator": {"name": "rules"}})) == 20
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    assert grace_of(config) == 20


def test_the_time_left_is_estimated_from_ten_items_and_more() -> None:
    assert progress_line("replies", 1, 120, 67.0) == "replies: 1 of 120", (
        "the first item of a batch takes as long as all"
    )
    assert progress_line("replies", 40, 120, 60.0) == "replies: 40 of 120, 2 min left"
    assert progress_line("replies", 40, None, 60.0) == "replies: 40"
    written = io.StringIO()
    for _ in TimedBar(range(20), "replies", file=written, mininterval=0, miniters=1, ncols=100):
        pass
    drawn = [text for text in written.getvalue().split("\r") if "/20" in text]
    assert all("<" not in text for text in drawn if int(text.split("/20")[0].rpartition(" ")[2]) < 10)
    assert "<" in drawn[-1], "a bar on a terminal likewise"


@pytest.mark.parametrize(
    ("evaluation", "step", "typed", "advice"),
    [
        ("winrate", "replies", None, ["replies"]),  # `steps` with every step makes no call again
        ("winrate", "verdicts", None, ["verdicts", "controls", "statistics"]),
        ("winrate", "verdicts", ["replies", "verdicts"], ["verdicts"]),  # the judges of `controls` were not asked for
        ("best_of", "verdicts", None, ["verdicts", "figures"]),
        ("safety", "answers", None, ["answers", "figures"]),
        ("session", "answers", None, ["answers", "flows", "figures"]),
    ],
)
def test_the_advice_after_failed_calls_can_be_typed(
    evaluation: str, step: str, typed: list[str] | None, advice: list[str]
) -> None:
    config = contest(f"evaluation={evaluation}", "model.path=builtin:tiny")
    config.steps = typed
    course = build(config, "evaluation").course
    assert _to_repeat(course, config, step) == advice
    check_steps(advice, course.steps)
    first = course.steps.index(step)
    assert tuple(advice) == course.steps[first : first + len(advice)]


def test_a_failed_call_is_counted_once() -> None:
    replies = {"outcomes": {"text": 4, "failed": 1}, "writers": {"a": {"text": 4}, "b": {"failed": 1}}}
    votes = {"outcomes": {"rated": 2, "failed": 2}, "missing": {"risk": {"emergency": {"failed": 2}}}}
    assert [failed_calls(figures) for figures in (replies, votes)] == [1, 2]
    assert failed_calls({"outcomes": {"mine": {"failed": 1}, "base": {"failed": 2}}}) == 3
    assert failed_calls({"sets": ["a"], "failed": 2}) == failed_calls({"mine": {"failed": 2}}) == 2
