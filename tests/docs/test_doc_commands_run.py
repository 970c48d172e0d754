"""The pages' commands that need no hub, GPU, server or SLURM run, each in a folder with the files that its page takes as given.

Long commands are shortened by more overrides: two steps, few pairs, replies of some tokens. Their own keys stay as printed.
The tutorial and docs/your-data.md run as printed, in tests/docs/test_doc_code.py and tests/packaging/test_wheel.py.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest

from psychocounsel.data.selection.select import load_split
from psychocounsel.settings.config import check, compose
from tests.docs.test_doc_commands import shown
from tests.support.doc_blocks import Command
from tests.support.doc_runs import write_files
from tests.support.harness import ROOT, cli, write_jsonl

pytestmark = pytest.mark.slow

_RUN = ("train", "evaluate", "audit", "annotate", "agreement", "export", "report", "jobs", "cache", "launch")
_ELSEWHERE = re.compile(
    r"vllm|qwen|llama|nemotron|_8b|_3b|http|openai|wandb|slurm|=psychocounsel|nf4|vera_mh|played|study=(paper|algorithms|NAME)"
    r"|lm_eval|push=|/runs/anna|\$SCRATCH|clinic|quickstart$",
    re.IGNORECASE,
)
# Tests of own clusters, served pages, experts' answers, jobs of SLURM and endless output are in other files.
_TESTED_ELSEWHERE = re.compile(
    r"cluster=queue|--watch|--open|set_review|adjudicated|experts=|gate\.from|human_annotations|remove=|study="
    r"|attach|forget|sync|INDEX|scores\.votes|^cancel$|studies/|^data=my_preferences$"
)
_PLACES = {
    "reward.path=RUN/model": "reward.path=runs/reward/model",
    "speeches=FILE": "speeches=my_speeches.jsonl",
    "model.path=FOLDER": "model.path=runs/sft/model",
    "model.path=MODEL": "model.path=builtin:tiny",
    "data=FILE": "data=answers.jsonl",
    "data.path=FILE": "data.path=pairs.jsonl",
    "speeches.license=NAME": "speeches.license=cc-by-4.0",
    "model.path=RUN/model": "model.path=runs/dpo/model",
    "model.path=RUN": "model.path=runs/dpo",
    "against=BASE": "against=builtin:tiny",
    "run_dir=DIR": "run_dir=evaluations/dpo",
    "RUN": "runs/dpo",
    "DIR": "runs/dpo",
    "step=200": "step=2",
    "to=FOLDER": "to=exported",
    "data.path=tests/fixtures/first_sample.jsonl.gz": f"data.path={ROOT}/tests/fixtures/first_sample.jsonl.gz",
}
_SHORT = {
    "train": ["max_steps=2", "global_batch_size=4", "data.limit=24", "eval.limit=4", "eval.every=0"],
    "evaluate": ["limit=4"],
    "audit": ["limit=60"],
    "annotate": ["speeches.limit=2"],
}
_ONLINE = ["rollout.max_tokens=8", "algo.prompts_per_round=4", "algo.samples=2"]
_EXIT_CODES = {"audit.max_blind": (0, 3, 4), "guard.stop": (0, 3), "evaluation=gate": (0, 3, 4)}


def _here() -> Iterator[Command]:
    for each in shown():
        text = " ".join(each.arguments)
        tutorials = ("docs/tutorial.md", "docs/your-data.md")
        runs = each.name in _RUN and each.page not in tutorials
        if runs and not _ELSEWHERE.search(text) and not _TESTED_ELSEWHERE.search(text):
            yield each


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the runs, preferences and files that commands of the pages name."""
    folder = tmp_path_factory.mktemp("reader")
    train, _ = load_split(check(compose([])).data, print)
    first = [*{each.prompt[0]["content"]: each for each in train}.values()][:60]
    rows = [
        {"prompt": each.prompt[0]["content"], "chosen": each.replies[0], "rejected": each.replies[1]} for each in first
    ]
    write_jsonl(folder / "pairs.jsonl", rows)
    write_jsonl(folder / "soft.jsonl", [{**row, "chosen_probability": 0.8} for row in rows])
    write_jsonl(folder / "my_speeches.jsonl", [{"speech": row["prompt"]} for row in rows[:4]])
    own = pd.DataFrame(rows).rename(columns={"prompt": "client", "chosen": "good", "rejected": "bad"})
    own.to_csv(folder / "table.csv", sep=";", index=False)
    answers = [
        {"item": item, "rater": rater, "choice": ("left", "right")[item % 2]}
        for item in range(20)
        for rater in ("e1", "e2")
    ]
    write_jsonl(folder / "answers.jsonl", answers)
    exam = [{"question": f"{one} + 1 = ?", "choices": [str(one + 1), str(one)], "answer": "A"} for one in range(4)]
    write_jsonl(folder / "my_exam.jsonl", exam)
    write_jsonl(folder / "forum.jsonl", [{"speech": row["prompt"]} for row in rows[4:8]])
    pd.DataFrame({"post": [row["prompt"] for row in rows[8:12]]}).to_parquet(folder / "other.parquet")
    cli("train", "model.lora.rank=2", *_SHORT["train"], "run_dir=runs/lora", cwd=folder)
    for name in ("reward", "sft", "dpo"):
        cli("train", f"algo={name}", *_SHORT["train"], f"run_dir=runs/{name}", cwd=folder)
    cli("annotate", "speeches.limit=12", "out=my_preferences", cwd=folder)
    winrate = ["evaluation=winrate", "limit=4", "replies.max_tokens=8", "run_dir=evaluations/dpo"]
    cli("evaluate", *winrate, cwd=folder)
    cli("train", "-m", "seed=1,2", *_SHORT["train"], "sweep_dir=sweeps/beta", cwd=folder)
    return folder


@pytest.mark.parametrize("command", _here(), ids=lambda each: f"{each.page}:{each.line}".replace("/", "."))
def test_a_command_of_the_pages_runs(command: Command, given: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reader"
    shutil.copytree(given, folder, symlinks=True)
    write_files(ROOT / command.page, folder)
    arguments = _completed(command)
    for text in arguments:  # a new run or sweep of that name
        key, _, value = text.partition("=")
        goes_on = "steps=[statistics]" in arguments
        if key in ("run_dir", "sweep_dir") and not goes_on:
            shutil.rmtree(folder / value, ignore_errors=True)
    done = cli(command.name, *arguments, cwd=folder, check_code=None)
    text = " ".join(arguments)
    allowed = next((codes for part, codes in _EXIT_CODES.items() if part in text), (0,))
    assert done.returncode in allowed, f"{command}\n{arguments}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    shutil.rmtree(folder)


def _completed(command: Command) -> list[str]:
    """Return the arguments with places of the reader's own filled in, and shortened."""
    typed = [_PLACES.get(text, text) for text in command.arguments]
    if "merge=true" in typed:
        typed[0] = "runs/lora"
    if "-m" in typed or any(text.startswith("sweep=") for text in typed):
        typed = [*(text for text in typed if text != "seed=1,2,3"), "seed=1"]
    keys = {text.partition("=")[0].lstrip("+") for text in typed}
    more = list(_SHORT.get(command.name, ()))
    text = " ".join(typed)
    if command.name == "train":
        if "dry_run=true" in typed or "--help" in typed:
            return typed
        if any(text.startswith("debug=") for text in typed):
            more = []
        if keys & {"epochs"}:
            more.remove("max_steps=2")
        if re.search(r"algo=(online_\w+|ppo|rloo|grpo)", text):
            more += [each for each in _ONLINE if "-m" not in typed or "algo." not in each]
        if "data.soft_labels=true" in typed:
            typed = ["data.path=soft.jsonl" if each == "data.path=pairs.jsonl" else each for each in typed]
        if "eval.replies=true" in typed:
            more.append("eval.every=2")
            more.remove("eval.every=0")
        if "hydra/sweeper=optuna" in typed:
            return [*(each.replace("trials=20", "trials=2") for each in typed), *_new(more, keys), "eval.every=1"]
    if "steps=[statistics]" in typed or "steps=[pairs" in text:
        return typed
    if command.name == "evaluate" and re.search(r"evaluation=(winrate|safety|session|health|gate|external)", text):
        more.append("replies.max_tokens=8")
    return [*typed, *_new(more, keys)]


def _new(more: Sequence[str], keys: set[str]) -> list[str]:
    return [text for text in more if text.partition("=")[0] not in keys]
