"""A reader of the pages: the files that commands of the pages take as given, and commands shortened so that they take seconds."""

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from psychocounsel.data.selection import load_split
from tests.support.composed import check, compose
from tests.support.doc_blocks import Command
from tests.support.harness import ROOT, cli, write_jsonl

PLACES = {
    "reward.path=RUN/model": "reward.path=runs/reward/model",
    "speeches=FILE": "speeches=my_speeches.jsonl",
    "algo.teacher.path=TEACHER": "algo.teacher.path=builtin:tiny_dpo",
    "model.path=FOLDER": "model.path=runs/sft/model",
    "model.path=MODEL": "model.path=builtin:tiny",
    "data=FILE": "data=answers.jsonl",
    "data.path=FILE": "data.path=pairs.jsonl",
    "speeches.license=NAME": "speeches.license=cc-by-4.0",
    "model.path=RUN/model": "model.path=runs/dpo/model",
    "model.path=RUN": "model.path=runs/dpo",
    "against=BASE": "against=builtin:tiny",
    "against=meta-llama/Llama-3.1-8B-Instruct": "against=builtin:tiny",
    "run_dir=DIR": "run_dir=evaluations/dpo",
    "judge.reward=runs/other/model": "judge.reward=runs/reward/model",
    "RUN": "runs/dpo",
    "DIR": "runs/dpo",
    "step=200": "step=2",
    "to=FOLDER": "to=exported",
    "data.path=tests/fixtures/first_sample.jsonl.gz": f"data.path={ROOT}/tests/fixtures/first_sample.jsonl.gz",
}
SHORT = {
    "train": ["max_steps=2", "global_batch_size=4", "data.limit=24", "eval.limit=4", "eval.every=0"],
    "evaluate": ["limit=4"],
    "audit": ["limit=60"],
    "annotate": ["speeches.limit=2"],
}
_ONLINE = ["rollout.max_tokens=8", "algo.prompts_per_round=4", "algo.samples=2"]
EXIT_CODES = {"audit.max_blind": (0, 3, 4), "guard.stop": (0, 3), "evaluation=gate": (0, 3, 4)}


def make_files(folder: Path) -> None:
    """Write the files that commands of the pages name: pairs, speeches, answers of raters, questions of an exam."""
    train, _ = load_split(check(compose([])).data, print)
    first = [*{each.prompt[0]["content"]: each for each in train}.values()][:60]
    rows = [
        {"prompt": each.prompt[0]["content"], "chosen": each.replies[0], "rejected": each.replies[1]} for each in first
    ]
    write_jsonl(folder / "pairs.jsonl", rows)
    write_jsonl(folder / "clients.jsonl", rows)
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
    rated = [
        {"id": item, "annotator": rater, "Empathy": 1 + item % 6, "Ethics": 3} for item in range(20) for rater in "ab"
    ]
    pd.DataFrame(rated).to_csv(folder / "ratings.csv", index=False)
    asked = [
        {
            "id": str(item),
            "empathy.responses": [1 + item % 6, 0],
            "empathy.responses.users": ["a", "b"],
            "empathy.responses.status": ["submitted", "submitted"],
        }
        for item in range(20)
    ]
    write_jsonl(folder / "human_annotations.jsonl", asked)
    exam = [{"question": f"{one} + 1 = ?", "choices": [str(one + 1), str(one)], "answer": "A"} for one in range(4)]
    write_jsonl(folder / "my_exam.jsonl", exam)
    write_jsonl(folder / "forum.jsonl", [{"speech": row["prompt"]} for row in rows[4:8]])
    pd.DataFrame({"post": [row["prompt"] for row in rows[8:12]]}).to_parquet(folder / "other.parquet")


def make_folder(folder: Path) -> None:
    """Fill a folder with the files, runs, preferences and evaluations that commands of the pages name."""
    make_files(folder)
    cli("train", "model.lora.rank=2", *SHORT["train"], "run_dir=runs/lora", cwd=folder)
    for name in ("reward", "sft", "dpo"):
        cli("train", f"algo={name}", *SHORT["train"], f"run_dir=runs/{name}", cwd=folder)
    cli("train", "algo=reward", "algo.heads=principles", *SHORT["train"], "run_dir=runs/heads", cwd=folder)
    cli("annotate", "speeches.limit=12", "out=my_preferences", cwd=folder)
    (folder / "ids.txt").write_text(pd.read_parquet(folder / "my_preferences" / "speeches.parquet")["speech"][0])
    winrate = ["evaluation=winrate", "limit=4", "replies.max_tokens=8", "run_dir=evaluations/dpo"]
    cli("evaluate", *winrate, cwd=folder)
    cli("train", "-m", "seed=1,2", *SHORT["train"], "sweep_dir=sweeps/beta", cwd=folder)


def completed(command: Command) -> list[str]:
    """Return the arguments with places of the reader's own filled in, and shortened."""
    typed = [PLACES.get(text, text) for text in command.arguments]
    if "merge=true" in typed:
        typed[0] = "runs/lora"
    if "-m" in typed or any(text.startswith("sweep=") for text in typed):
        typed = [*(text for text in typed if text != "seed=1,2,3"), "seed=1"]
    keys = {text.partition("=")[0].lstrip("+") for text in typed}
    more = list(SHORT.get(command.name, ()))
    text = " ".join(typed)
    if command.name == "train":
        if "dry_run=true" in typed or "--help" in typed:
            return typed
        if any(text.startswith("debug=") for text in typed):
            more = []
        if keys & {"epochs"}:
            more.remove("max_steps=2")
        if re.search(r"algo=(online_\w+|ppo|rloo|(dr_)?grpo|dapo|gspo|distil)", text):
            more += [each for each in _ONLINE if "-m" not in typed or "algo." not in each]
        if "data.soft_labels=true" in typed:
            typed = ["data.path=soft.jsonl" if each == "data.path=pairs.jsonl" else each for each in typed]
        if "eval.replies=true" in typed:
            more.append("eval.every=2")
            more.remove("eval.every=0")
        if "hydra/sweeper=optuna" in typed:
            return [*(each.replace("trials=20", "trials=2") for each in typed), *_new(more, keys), "eval.every=1"]
    if "steps=[" in text:  # continues a directory, whose settings hold
        return typed
    if command.name == "evaluate" and re.search(r"evaluation=(winrate|safety|session|health|gate|external)", text):
        more.append("replies.max_tokens=8")
    return [*typed, *_new(more, keys)]


def _new(more: Sequence[str], keys: set[str]) -> list[str]:
    return [text for text in more if text.partition("=")[0] not in keys]
