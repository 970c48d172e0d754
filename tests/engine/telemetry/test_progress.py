"""Messages never cut a progress bar on a terminal, and the bar never cuts a message."""

import fcntl
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from psychocounsel.engine.telemetry.progress import LinesAboveBar, Progress, lines_above_bars
from tests.support.harness import own_cache

_BAR = re.compile(r"training: +\d+%\|")


def on_a_terminal(command: list[str], cwd: Path, **environment: str) -> str:
    """Return everything that a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))  # rows and columns
    process = subprocess.Popen(
        command, cwd=cwd, env={**os.environ, **environment}, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # how Linux reports that the last writer has left
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    assert process.wait(timeout=60) == 0, b"".join(pieces).decode()
    return b"".join(pieces).decode()


def seen(written: str) -> list[str]:
    """Return the lines that remain on the screen: text after a carriage return overwrites the line."""
    screen = []
    for line in written.replace("\r\n", "\n").split("\n"):
        cells: list[str] = []
        for part in line.split("\r"):
            text = part.rpartition("\033[K")[2] if "\033[K" in part else part
            cells[: len(cells) if "\033[K" in part else len(text)] = text
        screen.append("".join(cells).rstrip())
    return screen


@pytest.mark.slow
def test_a_training_on_a_terminal(small_model: Path, tmp_path: Path) -> None:
    """The run has evaluations, a callback that prints and logs at each step, and an end by patience."""
    (tmp_path / "talkative.py").write_text(
        "import logging, sys\n"
        "from psychocounsel.engine.callbacks import Callback\n"
        "class Talkative(Callback):\n"
        "    def on(self, event, step, run):\n"
        "        print('note: printed at', event, flush=True)\n"
        "        sys.stderr.write('note: half a line, ')\n"
        "        sys.stderr.write('and its end\\n')\n"
        "        logging.getLogger('talkative').warning('note: logged at %s', event)\n"
    )
    given = [f"model.path={small_model}", f"run_dir={tmp_path}/run"]
    given += ["algo=sft", "algo.lr=1e-30", "data.limit=20", "global_batch_size=4", "eval.every=1", "eval.limit=4"]
    given += ["max_steps=9", "checkpoint.patience=2", "+callbacks.talk={_target_: talkative.Talkative}"]
    command = [sys.executable, "-m", "psychocounsel.train", *given]
    written = on_a_terminal(command, tmp_path, PSYCHOCOUNSEL_CACHE=own_cache(given, tmp_path))
    lines = seen(written)
    assert len(_BAR.findall(written)) > 3, "a bar was drawn"
    notes = [line for line in lines if "note:" in line]
    assert len(notes) > 6 and "note: half a line, and its end" in notes
    for line in lines:
        if _BAR.search(line):
            assert line.startswith("training:") and not re.search(r"note|warning|ready|finished", line), line
    for note in notes:
        assert note.startswith("note: ") and "training" not in note and "it/s" not in note, note
    assert any("has not improved" in line for line in lines)


def test_the_time_left_counts_whole_rounds_and_no_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress(is_main=True)
    progress.start(0, 9)
    bar = progress.steps
    assert bar is not None
    bar.start_t -= 1000  # seconds of the evaluation before training
    bar.last_print_t -= 1000
    progress.update(0, {"eval/reward": 0.1})
    begins = {"rollout/reward": 0.1}
    shown = []
    for step in range(1, 7):
        bar.start_t -= 10
        progress.update(step, begins if step % 3 == 1 else {})
        shown.append(str(bar).partition("<")[2].partition(",")[0])
    progress.close()
    assert shown[:3] == ["", "", ""] and shown[3:] == ["00:50", "00:40", "00:30"]


class Terminal:
    """Stream that claims to be a terminal and records what is written to it."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True


def test_log_handlers_and_unfinished_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", open(os.devnull, "w"))
    logger, handler = logging.getLogger("of-a-library"), logging.StreamHandler(terminal)
    logger.addHandler(handler)
    try:
        with lines_above_bars():
            assert isinstance(sys.stderr, LinesAboveBar) and not isinstance(sys.stdout, LinesAboveBar)
            with lines_above_bars():
                logger.warning("logged")
            print("printed", file=sys.stderr)
            sys.stderr.write("begun")
            assert "logged\n" in terminal.text and "printed\n" in terminal.text and "begun" not in terminal.text
        assert terminal.text.endswith("begun\n") and sys.stderr is terminal and handler.stream is terminal
    finally:
        logger.removeHandler(handler)
