"""Separate process that runs lm-eval on one model: `python -m ...lm_eval_process ORDER.json RESULT.json`.

ORDER holds `model` (a folder, hub id or builtin: name), its `revision` (null: the newest) and `dtype`, and the fields of
AbilityTasks: `tasks`, `folder`, `limit`, `batch_size` and `chat`.
RESULT holds, for each task and metric: `value`, `stderr`, `higher_is_better`, and `documents`, the values by document number.
"""

import json
import sys
from pathlib import Path
from typing import Any

from psychocounsel.storage.files import write_json


def measured(order: dict[str, Any]) -> dict[str, Any]:
    """Evaluate the model of `order` and return {task: {metric: {...}}}.

    The name of a metric includes its filter, unless the filter is `none`.
    """
    import torch
    from lm_eval import simple_evaluate

    from psychocounsel.model.tokenizer import resolve_path

    revision = {"revision": order["revision"]} if order["revision"] else {}
    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": resolve_path(order["model"]), "dtype": order["dtype"], **revision},
        tasks=order["tasks"],
        task_manager=_task_manager(order["folder"], order["tasks"]),
        device="cuda" if torch.cuda.is_available() else "cpu",
        batch_size=order["batch_size"],
        limit=order["limit"],
        apply_chat_template=order["chat"],
        log_samples=True,
    )
    assert results is not None, "the first rank gets the results"
    return {
        task: _of_task(figures, results.get("samples", {}).get(task, []), results["higher_is_better"].get(task, {}))
        for task, figures in results["results"].items()
    }


def _task_manager(folder: str | None, tasks: list[str]) -> Any:
    """Return lm-eval's task manager. If `folder` has all `tasks`, the thousands of shipped task files are not read."""
    from lm_eval.tasks import TaskManager

    if folder:
        own = TaskManager(include_path=folder, include_defaults=False)
        if {*tasks} <= {*own.all_tasks}:
            return own
    return TaskManager(include_path=folder)


def _of_task(figures: dict[str, Any], samples: list[dict[str, Any]], directions: dict[str, Any]) -> dict[str, Any]:
    by_metric = {}
    for key, value in figures.items():
        metric, _, filtered = key.partition(",")
        if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        error = figures.get(f"{metric}_stderr,{filtered}")
        documents = {
            str(sample["doc_id"]): float(sample[metric])
            for sample in samples
            if sample.get("filter", filtered) == filtered and isinstance(sample.get(metric), int | float)
        }
        by_metric[metric if filtered == "none" else f"{metric} ({filtered})"] = {
            "value": float(value),
            "stderr": float(error) if isinstance(error, int | float) else None,
            "higher_is_better": directions.get(metric),
            "documents": documents,
        }
    return by_metric


def main() -> None:
    """Read the order file, run lm-eval and write the result file."""
    order, result = map(Path, sys.argv[1:])
    write_json(result, measured(json.loads(order.read_text())))


if __name__ == "__main__":
    main()
