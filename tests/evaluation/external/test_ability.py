"""General ability: a local lm-eval task on shipped models, and differences paired by document."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.asking.in_process import Transformers
from psychocounsel.errors import UserError
from psychocounsel.evaluation.external.ability import (
    AbilityTasks,
    ability_figures,
    check_ability,
    measure_ability,
    weights_of,
)
from psychocounsel.model.tokenizer import resolve_path

SHIPPED = {"model": "builtin:tiny", "revision": None, "dtype": "float32"}


def figures_of(values: list[float], higher: bool = True) -> dict[str, Any]:
    documents = {str(n): value for n, value in enumerate(values)}
    return {
        "t": {
            "acc": {"value": float(np.mean(values)), "stderr": 0.1, "higher_is_better": higher, "documents": documents}
        }
    }


def test_a_loss_is_paired_by_document() -> None:
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.6).astype(float)
    mine = np.where(rng.random(400) < 0.1, 0.0, base)
    found = ability_figures({"mine": figures_of(mine.tolist()), "base": figures_of(base.tolist())}, "base")
    change = found["against"]["mine"]["t"]["acc"]
    spread = np.std(mine - base, ddof=1) / 20
    assert change["difference"] == pytest.approx((mine - base).mean())
    np.testing.assert_allclose(change["interval"], change["difference"] + np.array([-1.96, 1.96]) * spread, atol=0.01)
    assert change["worse"] is True and change["documents"] == 400
    same = ability_figures({"mine": figures_of(base.tolist()), "base": figures_of(base.tolist())}, "base")
    assert same["against"]["mine"]["t"]["acc"]["worse"] is False
    lower = ability_figures({"mine": figures_of([3, 3, 4], False), "base": figures_of([1, 2, 2], False)}, "base")
    assert lower["against"]["mine"]["t"]["acc"]["worse"] is True, "perplexity rose"
    two = ability_figures({"mine": figures_of([0, 0]), "base": figures_of([1, 1])}, "base")["against"]["mine"]["t"][
        "acc"
    ]
    assert two["interval"][1] > 0 and two["worse"] is False, "two documents prove no loss"
    equal = ability_figures({"mine": figures_of([3, 4], False), "base": figures_of([1, 2], False)}, "base")
    assert equal["against"]["mine"]["t"]["acc"]["interval"] is None, "equal changes have no spread"


def test_missing_package_and_folder_are_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec("lm_eval") is None:
        with pytest.raises(UserError, match=r"pip install 'psychocounsel\[lm-eval\]'"):
            check_ability(AbilityTasks(["mine"]))
        (tmp_path / "lm_eval").mkdir()
        (tmp_path / "lm_eval" / "__init__.py").touch()
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(UserError, match="lm_eval_folder=nowhere: no such folder"):
        check_ability(AbilityTasks(["mine"], "nowhere"))
    check_ability(AbilityTasks(["mine"], str(tmp_path)))


def test_lm_eval_loads_the_revision_and_the_format_of_the_contestant() -> None:
    model = Transformers(name="mine", model="org/name", revision="abc", dtype="bf16")
    assert weights_of(model) == {"model": "org/name", "revision": "abc", "dtype": "bfloat16"}
    assert weights_of(Transformers(name="tiny", model="builtin:tiny"))["dtype"] == "auto"


@pytest.mark.extras
def test_a_local_task_measures_the_shipped_model(tmp_path: Path) -> None:
    """The accuracy equals the accuracy from comparing the model's own log-probabilities of both choices."""
    pytest.importorskip("lm_eval", reason="lm-eval is an extra: pip install 'psychocounsel[lm-eval]'")
    rows = [
        {"question": f"I am client {n}. I feel", "choices": [" sad today.", " zq xv kk."], "answer": n % 2}
        for n in range(6)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "feelings",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (tmp_path / "feelings.yaml").write_text(json.dumps(task))
    found = measure_ability(SHIPPED, AbilityTasks(["feelings"], str(tmp_path)))
    acc = found["feelings"]["acc"]
    wanted = [float(_choice(row) == row["answer"]) for row in rows]
    assert [acc["documents"][str(n)] for n in range(6)] == wanted
    assert acc["value"] == pytest.approx(np.mean(wanted))
    assert acc["stderr"] == pytest.approx(np.std(wanted, ddof=1) / np.sqrt(6))
    with pytest.raises(UserError, match=f"lm-eval: {tmp_path}/nothing: "):
        measure_ability(SHIPPED | {"model": f"{tmp_path}/nothing"}, AbilityTasks(["feelings"], str(tmp_path)))


def _choice(row: dict[str, Any]) -> int:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = resolve_path("builtin:tiny")
    tokenizer, model = (
        AutoTokenizer.from_pretrained(path),
        AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval(),
    )
    sums = []
    for choice in row["choices"]:
        prompt = tokenizer(row["question"]).input_ids
        ids = tokenizer(row["question"] + choice).input_ids
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        sums.append(sum(float(logits[place - 1, ids[place]]) for place in range(len(prompt), len(ids))))
    return int(np.argmax(sums))
