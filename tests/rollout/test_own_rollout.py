"""A run learns from the replies of a user's own rollout; rollouts that lack parts of the contract are rejected."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from psychocounsel.cluster.memory.check import memory_line
from psychocounsel.cluster.memory.gpu import estimate, trained_shape
from psychocounsel.data.group import Group, read_groups
from psychocounsel.errors import UserError
from psychocounsel.rollout.base import Rollout, RolloutSettings, Sampling, Shard
from psychocounsel.rollout.sessions import open_rollout
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, metrics_of
from tests.support.own_folder import docs_example, write_own

_PAGE = (ROOT / "docs" / "extend.md").read_text()
_CODE, _SETTINGS = docs_example(_PAGE, "# my/phrases.py"), docs_example(_PAGE, "# my/rollout/phrases.yaml")


def test_a_run_learns_from_what_it_writes(small_model: Path, tmp_path: Path) -> None:
    write_own(tmp_path / "my", "rollout", "phrases", _CODE, _SETTINGS)
    given = [
        "algo=rloo",
        "reward=tiny",
        "rollout=phrases",
        f"model.path={small_model}",
        "max_steps=2",
        "eval.limit=2",
        "eval.every=0",
    ]
    given += ["global_batch_size=4", "algo.samples=2", "data.limit=100", "run_dir=run", "cluster.threads=1"]
    cli("train", "--config-dir", "my", *given, "rollout.phrases=['And then?','I see.']", cwd=tmp_path)
    for number in (0, 1):
        (shard,) = (tmp_path / "run" / "rounds" / f"000{number}").glob("shard-*.parquet")
        for group in read_groups(shard):
            assert [reply.text for reply in group.completions] == ["And then?", "I see."]
            assert [(reply.policy_version, reply.finish_reason) for reply in group.completions] == [
                (number, "stop")
            ] * 2
    assert [line["step"] for line in metrics_of(tmp_path / "run")][-1] == 2


def test_a_rollout_that_lacks_what_it_needs_is_refused(tmp_path: Path) -> None:
    class Plain(RolloutSettings):
        def open(self, *given: Any) -> Rollout:
            return object()  # type: ignore[return-value]

    class Mute(Rollout):
        def sync(self, version: int) -> None:
            pass

    nothing: Any = None
    chat: Any = SimpleNamespace(tokenizer=None, ends=list)
    with pytest.raises(
        UserError, match=r"Plain.open returned object; it must return an object of psychocounsel.rollout"
    ):
        open_rollout(Plain(), nothing, nothing, chat, nothing, tmp_path)
    with pytest.raises(UserError, match=r"Mute: lacks generate \(see psychocounsel.rollout.base.Rollout\)"):
        Mute()  # type: ignore[abstract]


class _Least(Rollout):
    def sync(self, version: int) -> None:
        pass

    def generate(self, groups: Any, sampling: Sampling) -> list[Group]:
        return list(groups)


def test_the_rest_of_the_contract_has_defaults() -> None:
    least = _Least()
    least.rest()
    nothing: Shard = ([], Sampling(1, 1.0, 8, 8, 0))
    assert not least.rounds_ahead and not list(least.write_alone([nothing], lambda: False))


_SIZED = """
    def memory(self, shape, config, samples):
        return {"engine of phrases": 2e9 * samples}

    def smaller(self):
        return {"shard_prompts": 1}
"""


def test_the_memory_estimate_asks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsized = _CODE.replace("class PhraseRollout", "class Unsized(Phrases):\n    pass\n\n\nclass PhraseRollout")
    sized = unsized.replace("class PhraseRollout", f"class Sized(Phrases):{_SIZED}\n\nclass PhraseRollout")
    (tmp_path / "sized.py").write_text(sized)
    monkeypatch.syspath_prepend(tmp_path)
    given = ["cluster=slurm", "algo=rloo", "algo.samples=3", "~rollout.batch_size"]
    unknown, known = (check(compose([*given, f"rollout._target_=sized.{kind}"])) for kind in ("Unsized", "Sized"))
    shape = trained_shape(unknown)
    assert shape is not None
    assert (estimate(shape, unknown, 4).unknown, estimate(shape, unknown, 4).writing) == (["rollout Unsized"], {})
    assert "without rollout Unsized, whose size is unknown" in memory_line(unknown, 4, None)
    assert (estimate(shape, known, 4).unknown, estimate(shape, known, 4).writing) == ([], {"engine of phrases": 6e9})
