"""`jobs archive` keeps everything except optimizer state, at every stage of ZeRO; jobs upload what was stored offline."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from safetensors.torch import load_file

from psychocounsel.cluster.archive import _is_copied, archive, sync_where_asked
from psychocounsel.engine.telemetry.trackers import Wandb
from psychocounsel.errors import USER_ERROR, UserError
from psychocounsel.rundir.manifest import complete_checkpoints
from psychocounsel.rundir.owner import ownership
from psychocounsel.rundir.paths import AnnotationDir
from psychocounsel.rundir.run_config import write_config, write_job
from psychocounsel.rundir.sweep import add_to_table
from tests.support.answering import answer_of_wandb, no_proxy, serving
from tests.support.composed import check, compose
from tests.support.export_runs import SETTINGS, content, make_base
from tests.support.harness import cli

__all__ = ["no_proxy"]
_STEPS = ["max_steps=3", "eval.every=0", "checkpoint.every=1", "checkpoint.keep_last=2", "cluster.threads=1"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "more"),
    [
        *(pytest.param(*case, marks=pytest.mark.proof) for case in [(0, ""), (2, "model.dtype=bf16")]),
        (3, ""),
        (2, "model.lora.rank=4"),
    ],
)
def test_an_archive_exports_the_same_weights_and_has_no_optimizer_state(stage: int, more: str, tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    processes = "cluster.processes=2" if stage else "cluster.processes=1"
    given = ["algo=dpo", *filter(None, [more]), *SETTINGS, *_STEPS, f"zero={stage}", processes]
    cli("train", *given, "run_dir=run", cwd=tmp_path)
    run, kept = tmp_path / "run", tmp_path / "kept"
    (run / "checkpoints" / "step-000009").mkdir()  # of a killed writer
    said = cli("jobs", "archive", "run", "kept", cwd=tmp_path).stdout
    assert "the weights of 2 checkpoints" in said
    outside = {name for name in content(run) if not name.startswith("checkpoints/")}
    assert {name for name in content(kept) if not name.startswith("checkpoints/")} == outside
    assert [path.name for path in complete_checkpoints(kept)] == ["step-000002", "step-000003"]
    for checkpoint in complete_checkpoints(kept):
        names = {path.name for path in checkpoint.rglob("*") if path.is_file()}
        parts = {f"weights-{rank:05d}.safetensors" for rank in range(2 if stage else 1)}
        assert names == {*parts, "engine.json", "loop.json", "manifest.json"}
        assert (checkpoint / "loop.json").read_bytes() == (
            run / "checkpoints" / checkpoint.name / "loop.json"
        ).read_bytes()
        kept_names = {name for part in parts for name in load_file(checkpoint / "policy" / part)}
        assert kept_names and not any("exp_avg" in name for name in kept_names), "weights and nothing else"
    exports = []
    for place in ("run", "kept"):
        cli("export", place, "step=2", f"to={place}-2", cwd=tmp_path)
        exports.append(content(tmp_path / f"{place}-2"))
        exports[-1].pop("adapter_config.json", None)  # peft lists the layers in any order
    assert exports[0] == exports[1]


@pytest.mark.slow
def test_an_archive_cannot_go_on_and_says_what_can(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    given = ["algo=dpo", *SETTINGS, *_STEPS[1:]]
    cli("train", *given, "max_steps=1", "run_dir=run", cwd=tmp_path)
    cli("jobs", "archive", "run", "kept", cwd=tmp_path)
    assert "already finished" in cli("train", *given, "max_steps=1", "run_dir=kept", cwd=tmp_path).stdout
    before = content(tmp_path / "kept")
    refused = cli("train", *given, "max_steps=2", "run_dir=kept", cwd=tmp_path, check_code=USER_ERROR)
    (line,) = refused.stderr.splitlines()
    assert "without optimizer state" in line and f"psychocounsel export {tmp_path / 'kept'} step=1" in line
    assert content(tmp_path / "kept") == before
    again = cli("jobs", "archive", "kept", "twice", cwd=tmp_path)
    assert "the weights of 1 checkpoint, " in again.stdout
    cli("export", "twice", "step=1", "to=out", cwd=tmp_path)


@pytest.mark.slow
def test_a_job_uploads_within_its_time_where_asked_and_never_fails_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    run, tracker = tmp_path / "run", Wandb()
    tracker.start(run, OmegaConf.create({"sweep_dir": None}))
    tracker.log(1, {"loss": 0.123456})
    tracker.finish()
    write_job(run, "psychocounsel.train", 0, [])
    capfd.readouterr()
    with serving(answer_of_wandb) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        for asked, seconds in ((False, 60.0), (True, 0.1), (True, 60.0)):
            write_config(run, check(compose(["tracker=wandb", f"tracker.sync={asked}", f"run_dir={run}"])))
            sync_where_asked(run, seconds)
            said = capfd.readouterr().out
            if not asked:
                assert not said
            elif seconds < 1:
                assert said.startswith(
                    "tracker.sync: not uploaded: wandb sync took more than 0.1 s; type `psychocounsel"
                )
                assert not server.asked
        assert said.endswith("uploaded 1 run\n")
        assert any("0.123456" in str(payload) for _, payload in server.asked), "the history"
    assert not list(here.iterdir()), "wandb's logs are in the run"


def test_a_run_whose_shards_still_work_is_not_archived(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shards = AnnotationDir(run).shards
    for place in (run, shards / "000"):
        place.mkdir(parents=True)
        write_job(place, "psychocounsel.annotate", 0, [])
        write_config(place, check(compose([f"run_dir={place}"])))
    add_to_table(shards, [(shards / "000", [])])
    with ownership(shards / "000"), pytest.raises(UserError, match="000 is running: archive after all runs have ended"):
        archive(run, tmp_path / "kept")


def test_an_archive_has_the_links_to_folders_too(tmp_path: Path) -> None:
    """A search's `best` is one."""
    (tmp_path / "trial-001").mkdir()
    (tmp_path / "best").symlink_to("trial-001")
    assert _is_copied(tmp_path / "best", []) and not _is_copied(tmp_path / "trial-001", [])
