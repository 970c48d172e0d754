"""The code cells of docs/notebook.ipynb run in order in a new process and print the figures of the runs."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.harness import ROOT

NOTEBOOK = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())


def code_cells() -> list[str]:
    return ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_notebook_has_the_format_of_jupyter_and_no_outputs() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    assert not [cell for cell in NOTEBOOK["cells"] if cell.get("outputs") or cell.get("execution_count")]
    for number, text in enumerate(code_cells()):
        compile(text, f"cell {number}", "exec")


def test_the_cells_import_only_what_every_installation_has() -> None:
    nodes = [node for text in code_cells() for node in ast.walk(ast.parse(text))]
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", text)[0] for text in required}  # type: ignore[index]
    assert {name.partition(".")[0] for name in imported if name} <= names | {"psychocounsel"}


@pytest.mark.slow
def test_the_cells_train_evaluate_and_plot(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PSYCHOCOUNSEL_CACHE": str(tmp_path / "cache"),
    }
    command = [sys.executable, "-c", "\n".join(code_cells())]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = tmp_path / "runs"
    policy = metrics(runs / "notebook-dpo")
    assert policy[-1]["step"] == metrics(runs / "notebook-reward")[-1]["step"] == 6
    evaluated = [line["step"] for line in policy if "eval/accuracy" in line]
    assert evaluated == [0, 2, 4, 6]
    assert "Held-out accuracy with 95 % interval" in (tmp_path / "notebook-dpo.html").read_text()
    figures = json.loads((runs / "notebook-evaluation" / "summary.json").read_text())["metrics"]
    assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]
    low, accuracy, high = (f"{figures[f'accuracy{end}']:.3f}" for end in ("_low", "", "_high"))
    assert f"accuracy {accuracy} ({low} to {high})" in done.stdout
    best = json.loads((runs / "notebook-dpo" / "summary.json").read_text())["metrics"]["best"]
    assert f"DPO policy: best step {best['step']}" in done.stdout
