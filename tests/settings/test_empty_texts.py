"""An empty text in a list of any command's settings is one line that names its place, as a shell writes `[$UNSET]`."""

from pathlib import Path

import pytest

from psychocounsel.errors import USER_ERROR
from tests.support.in_process import run_here

KEYS = {
    "train": ["after", "code_path", "data.controls", "data.balance", "data.allowed_hosts", "model.lora.targets"],
    "train tracker=wandb": ["tracker.tags"],
    "train cluster=slurm": [
        *("cluster.modules", "cluster.setup", "cluster.srun", "cluster.servers.command"),
        *("cluster.container.binds", "cluster.container.arguments"),
    ],
    "train algo=grpo reward=ensemble": ["reward.members"],
    "train algo=grpo reward=openrlhf_server": ["reward.addresses"],
    "train algo=grpo rollout=vllm_server": ["rollout.addresses"],
    "annotate": ["steps", "accept_terms", "after", "code_path", "speeches.languages", "speeches.allowed_hosts"],
    "annotate \"speeches.sources=[{path: '', license: cc0-1.0}]\"": ["speeches.sources[0].path"],
    "annotate annotator=panel": ["annotator.members"],
    "annotate writers=pool": ["writers.members"],
    "annotate writers=local_vllm writers.model=a": ["writers.addresses"],
    "audit": ["after", "code_path", "audit.against"],
    "agreement data=a.csv": ["agreement.dimensions", "agreement.adjudicators"],
    "review data=a.csv": ["experts", "review.contact.command"],
    "evaluate": ["after", "code_path", "compare", "trained_on"],
    "evaluate evaluation=external model.path=builtin:tiny": ["evaluation.sets", "evaluation.lm_eval", "steps"],
    "evaluate evaluation=external model.path=builtin:tiny \"evaluation.sets=[{path: ''}]\"": ["evaluation.sets[0].path"],
    "evaluate evaluation=winrate model.path=builtin:tiny": ["evaluation.experts", "judge.members"],
    "evaluate evaluation=session model.path=builtin:tiny": ["personas.patterns"],
    "evaluate evaluation=gate": ["gate.from", "gate.parts", "gate.adjudicated"],
    "chat": ["code_path"],
}  # fmt: skip
# Keys whose lists are made by us, need more entries, have no effect here, or name configurations
OTHERWISE = ("code_path", "reward.members", "trained_on", "annotator.members", "writers.members", "judge.members")
CASES = [(line, key) for line, keys in KEYS.items() for key in keys]


@pytest.mark.parametrize(("line", "key"), CASES)
def test_an_empty_text_in_a_list_is_refused_with_its_place(
    line: str, key: str, own_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("item,rater,choice\n1,a,left\n")
    answer = run_here(line if "[" in key else f"{line} \"{key}=['']\"")
    assert answer.code == USER_ERROR, answer
    assert answer.stderr.startswith(f"error: {key}") and answer.stderr.count("\n") == 1, answer.stderr
    assert "is empty: give " in answer.stderr or key in OTHERWISE, answer.stderr
