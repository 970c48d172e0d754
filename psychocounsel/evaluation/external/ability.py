"""Step `ability`: lm-eval measures how much training worsens a model on tasks unrelated to counselling."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from psychocounsel.asking.in_process import InProcess, Transformers
from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.errors import UserError, words
from psychocounsel.evaluation.external.figures import AbilityFigures
from psychocounsel.metrics.intervals import EQUAL, difference_interval, mean_interval
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.targets import build
from psychocounsel.steps.course import StepContext
from psychocounsel.storage.files import read_mapping, write_json

# General ability, measured by lm-eval: how much training worsens a model on tasks unrelated to counselling.

_PROCESS = "psychocounsel.evaluation.external.lm_eval_process"
Measured = Mapping[str, Mapping[str, Mapping[str, Any]]]  # task, metric: value, stderr, higher_is_better, documents


@dataclass(frozen=True)
class AbilityTasks:
    """Tasks for lm-eval.

    Attributes:
        tasks: names of tasks that lm-eval ships or that `folder` defines.
        folder: folder of YAML files with further tasks; None: no further tasks.
        limit: largest number of documents of each task; None: all.
        batch_size: documents per batch.
        chat: True if prompts are formatted with the model's chat template.
    """

    tasks: Sequence[str]
    folder: str | None = None
    limit: int | None = None
    batch_size: int = 8
    chat: bool = False


def check_ability(asked: AbilityTasks) -> None:
    """Check the requirements of lm-eval before the evaluation starts.

    Raises:
        UserError: if lm-eval is not installed, or the folder of tasks does not exist.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("evaluation.lm_eval: lm-eval is not installed; pip install 'psychocounsel[lm-eval]'")
    if asked.folder and not Path(asked.folder).is_dir():
        raise UserError(f"evaluation.lm_eval_folder={asked.folder}: no such folder")


_FORMATS = {"fp32": "float32", "bf16": "bfloat16"}  # of weights, as lm-eval names them


def weights_of(model: LanguageModel) -> dict[str, Any]:
    """Return the weights of a contestant that lm-eval loads: `model` (a folder, hub id or builtin: name), `revision`, `dtype`.

    Raises:
        UserError: if the contestant is a server or a file of replies, whose weights are not available.
    """
    if not isinstance(model, Transformers | InProcess) or not model.model:
        raise UserError(
            f"evaluation.lm_eval: the weights of {model.name} are not available: lm-eval needs a run, a folder or a hub id"
        )
    return {"model": model.model, "revision": model.revision, "dtype": _FORMATS.get(model.dtype, model.dtype)}


def measure_ability(weights: Mapping[str, Any], asked: AbilityTasks) -> Measured:
    """Return the figures of a model, given by its `weights_of`, on all tasks.

    lm-eval runs in a separate process, so that its memory is freed at the end.

    Raises:
        UserError: if lm-eval fails; the message contains the last line of its error output, or its exit code.
    """
    with tempfile.TemporaryDirectory() as folder:
        order, result = Path(folder) / "order.json", Path(folder) / "result.json"
        write_json(order, {**asdict(asked), "tasks": [*asked.tasks], **weights}, durable=False)
        command = [sys.executable, "-m", _PROCESS, str(order), str(result)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode or not result.exists():
            last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise UserError(f"lm-eval: {weights['model']}: {words(last[:300])}")
        return read_mapping(result)


def ability_figures(measured: Mapping[str, Measured], base: str | None) -> AbilityFigures:
    """Return the figures of each contestant (by name) and, with a `base`, the differences to it, ready for JSON.

    If lm-eval returns a value for each document, the difference is paired by document and has a 95 % interval over
    documents; `worse` is then True if the whole interval is a loss. Otherwise (a group of tasks, a figure of a whole corpus,
    or a figure without limits that changes equally in all documents) both are None.
    """
    figures: AbilityFigures = {
        "settings": {
            name: {
                task: {
                    metric: {
                        "value": figure["value"],
                        "stderr": figure["stderr"],
                        "documents": len(figure["documents"]),
                    }
                    for metric, figure in metrics.items()
                }
                for task, metrics in tasks.items()
            }
            for name, tasks in measured.items()
        }
    }
    if base is not None and base in measured:
        figures["against"] = {
            name: {"base": base, **_differences(tasks, measured[base])}
            for name, tasks in measured.items()
            if name != base
        }
    return figures


def _differences(mine: Measured, base: Measured) -> dict[str, Any]:
    return {
        task: {metric: _difference(metrics[metric], base[task][metric]) for metric in metrics if metric in base[task]}
        for task, metrics in mine.items()
        if task in base
    }


def _difference(mine: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    shared = sorted({*mine["documents"]} & {*base["documents"]})
    row = {"difference": mine["value"] - base["value"], "interval": None, "documents": len(shared), "worse": None}
    if len(shared) < 2:
        return row
    values = np.array([[side["documents"][document] for document in shared] for side in (mine, base)])
    change = values[0] - values[1]
    if ((values >= 0) & (values <= 1)).all():
        low, high = difference_interval(change, np.arange(len(shared)))
    elif np.ptp(change) < EQUAL:  # without limits, equal differences do not show how far they may be off
        return row
    else:
        low, high = mean_interval(change, np.arange(len(shared)))
    falls = mine["higher_is_better"] is not False
    return row | {"interval": [low, high], "worse": high < 0 if falls else low > 0}


# The step: ability.json holds the figures of every contestant, document by document.


def run(context: StepContext[EvaluationDir]) -> dict[str, Any]:
    """Measure every contestant and write ability.json; without tasks the file is empty.

    Raises:
        UserError: if lm-eval fails.
    """
    tasks = build(context.config, "evaluation").tasks()
    contestants = build(context.config, "contestants").models() if tasks.tasks else []
    measured = {model.name: measure_ability(weights_of(model), tasks) for model in context.bar(contestants, "lm-eval")}
    write_json(context.files.ability, measured)
    return {"tasks": list(tasks.tasks)}
