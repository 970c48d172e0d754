"""100,000 speeches are cleaned, deduplicated and split in 5 minutes and 4 GB on two cores."""

import json
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from psychocounsel.data.shipped_rows import sample_rows
from tests.annotation.speeches.speech_files import table
from tests.support.harness import ROOT

COUNT = 100_000
RUN = """
import sys
from pathlib import Path
from tests.annotation.speeches.speech_files import made
if __name__ == "__main__":
    made(Path(sys.argv[1]), path=sys.argv[2], language="en")
"""


def write_speeches(path: Path) -> dict[int, int]:
    """Speeches of sentences of the sample with every fourth word exchanged; a fifth are doubles with at most one word changed.

    Returns the number of the speech that each double was made of.
    """
    rng = random.Random(0)
    sentences = [part.split() for _, row in sample_rows() for part in re.split(r"(?<=[.!?]) ", row["prompt"])]
    words = [word for sentence in sentences for word in sentence]
    texts: list[list[str]] = []
    doubles = {}
    with path.open("w") as file:
        for number in range(COUNT):
            if texts and rng.random() < 0.2:
                doubles[number] = rng.randrange(len(texts))
                text = list(texts[doubles[number]])
                for _ in range(rng.randint(0, 1)):
                    text[rng.randrange(len(text))] = "else"
            else:
                text = []
                while len(text) < rng.randint(40, 140):
                    text += [rng.choice(words) if rng.random() < 0.25 else word for word in rng.choice(sentences)]
            texts.append(text)
            file.write(json.dumps({"id": number, "text": " ".join(text)[:1000]}) + "\n")
    return doubles


@pytest.mark.proof
def test_100_000_speeches_in_5_minutes_and_4_gb(tmp_path: Path) -> None:
    doubles = write_speeches(tmp_path / "speeches.jsonl")
    (tmp_path / "run.py").write_text(RUN)
    began = time.monotonic()
    command = ["taskset", "-c", "0,1", sys.executable, "run.py", "out", "speeches.jsonl"]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    seconds = time.monotonic() - began
    kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # peak memory of the largest process
    dropped = {int(row["row"]) for row in table(tmp_path / "out" / "dropped_speeches.parquet") if row["of"]}
    print(
        f"{COUNT} speeches: {seconds:.0f} s, {kilobytes / 1e6:.2f} GB a process, {len(dropped)} of {len(doubles)} doubles"
    )
    assert seconds < 300 and 3 * kilobytes < 4e6
    assert len(dropped & doubles.keys()) > 0.999 * len(doubles) and len(dropped - doubles.keys()) < 0.001 * COUNT


@pytest.mark.slow
def test_processes_that_help_end_with_a_killed_step(tmp_path: Path) -> None:
    rows = (
        {"id": number, "text": f"I have been lying awake since the move, {number} nights. " * 3}
        for number in range(20_000)
    )
    (tmp_path / "speeches.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, "run.py", "out", "speeches.jsonl"]
    step = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    helpers: list[psutil.Process] = []
    while not helpers:
        assert step.poll() is None
        time.sleep(0.1)
        helpers = [each for each in psutil.Process(step.pid).children() if "spawn_main" in " ".join(each.cmdline())]
    time.sleep(2)  # until the processes have started
    step.kill()
    step.wait()
    left = psutil.wait_procs(helpers, timeout=20)[1]
    assert [each for each in left if each.status() != psutil.STATUS_ZOMBIE] == [], "child processes are still alive"
