"""One command makes the paper's table: a classifier, an OpenRLHF checkpoint, two served models and an ensemble."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psychocounsel.metrics.rewards import accuracy, auc, brier, ece
from psychocounsel.model.tokenizer import resolve_path
from psychocounsel.reward.local_model import LocalScorer
from psychocounsel.storage.files import read_json
from tests.reward.test_local_model import as_openrlhf
from tests.reward.test_servers import REWARD, Model
from tests.support.answering import no_proxy, serving
from tests.support.harness import cli, write_jsonl

__all__ = ["no_proxy"]
FIGURES: dict[str, Any] = {"accuracy": accuracy, "auc": auc, "ece": ece, "brier": brier}
ROWS = [
    {
        "prompt": f"Week {week}: my sister left{', and I cannot eat' * (week % 3)}.",
        "chosen": f"What did week {week} take from you?" + " I wonder." * (week % 4),
        "rejected": "Eat more." + " You must try." * (week % 5) + f" Week {week} passes.",
    }
    for week in range(16)
]


def rewards(path: str, normalise: bool = False) -> np.ndarray:
    """Return the rewards of a model, float[pairs, 2], chosen reply first."""
    talks = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
        for row in ROWS
        for side in ("chosen", "rejected")
    ]
    return LocalScorer.load(path, normalise=normalise).score(talks).reshape(-1, 2)


@pytest.mark.slow
def test_classifiers_checkpoints_servers_and_ensembles_stand_in_one_table(tmp_path: Path) -> None:
    """Each row has the figures of the model's own rewards, however they are computed."""
    second = Path(resolve_path("builtin:tiny_reward_2"))
    as_openrlhf(second, tmp_path / "theirs", "value_head")
    with serving(Model(second).openrlhf) as one, serving(Model().vllm) as other:
        compare = [
            "./theirs",
            f"{{use: openrlhf_server, path: {second}, addresses: ['{one.address}']}}",
            f"{{use: vllm_server, path: {REWARD}, addresses: ['{other.address}']}}",
            "{use: ensemble, members: [builtin:tiny_reward, ./theirs]}",
        ]
        given = [f"data.path={write_jsonl(tmp_path / 'pairs.jsonl', ROWS)}", "part=all"]
        given += [
            "evaluation.baselines=false",
            "reward.dtype=fp32",
            "reward=tiny",
            f"compare=[{','.join(compare)}]",
            "run_dir=out",
        ]
        cli("evaluate", *given, cwd=tmp_path)
    first, raw = rewards(str(REWARD)), rewards(str(second))
    both = (rewards(str(REWARD), normalise=True) + rewards(str(second), normalise=True)) / 2
    wanted = {"tiny": first, "theirs": raw, "openrlhf_server": raw, "vllm_server": first, "ensemble": both}
    found = read_json(tmp_path / "out" / "summary.json")["compare"]
    assert [*found["models"]] == [*wanted] and (found["pairs"], found["left_out"]) == (len(ROWS), 0)
    assert np.abs(first[:, 0] - first[:, 1] - raw[:, 0] + raw[:, 1]).max() > 0.01, "or equal rows would show nothing"
    lines = (tmp_path / "out" / "tables.txt").read_text().splitlines()
    start = lines.index("Reward models on the evaluated pairs") + 2
    rows = {line.split()[0]: line.split()[1:] for line in lines[start : start + len(wanted)]}
    for name, scores in wanted.items():
        figures = {each: metric(scores[:, 0] - scores[:, 1]) for each, metric in FIGURES.items()}
        assert {each: found["models"][name][each] for each in FIGURES} == pytest.approx(figures, abs=1e-3), name
        assert rows[name][0] == str(len(ROWS)) and f"{100 * figures['accuracy']:.1f}" in rows[name], name
