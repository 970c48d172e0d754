"""Tests of trackers, which read the files that these write."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from psychocounsel.engine.telemetry.records import StepLog
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import MetricsLog, read_metrics
from tests.support.answering import dead_address
from tests.support.composed import check, compose
from tests.support.harness import ROOT, cli, metrics_of

__all__ = ["dead_address"]
KILL = "+callbacks.kill={_target_: tests.support.killer.Kill, event: step_end, step: 3}"


def interrupted_run(model: Path, *overrides: str) -> None:
    base = [
        f"model.path={model}",
        "data.limit=16",
        "eval.limit=4",
        "max_steps=4",
        "global_batch_size=4",
        "checkpoint.every=2",
        "eval.every=0",
        *overrides,
    ]
    # A notebook that uses wandb sets WANDB_SERVICE, and its commands inherit it. This service does not exist.
    wandb = {"WANDB_MODE": "offline", "WANDB_SERVICE": "3-1-unix-/nowhere/socket"}
    cli("train", *base, KILL, cwd=ROOT, check_code=137, **wandb)
    cli("train", *base, cwd=ROOT, **wandb)


@pytest.mark.slow
def test_tensorboard_has_every_step_once(small_model: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run_dir = tmp_path / "run"
    interrupted_run(small_model, "tracker=tensorboard", f"run_dir={run_dir}")
    events = EventAccumulator(str(run_dir / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = [(line["step"], line["loss"]) for line in metrics_of(run_dir) if "loss" in line]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert [value for _, value in losses] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert [event.step for event in events.Scalars("eval/loss")] == [0, 4]
    config = events.Tensors("config/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "\n    max_steps: 4\n" in config
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(content).session_start_info
    assert (
        start.hparams["global_batch_size"].number_value == 4
        and start.hparams["data.path"].string_value == "builtin:sample"
    )


def wandb_records(file: Path) -> list:
    """Return the records of a W&B file: a header of 7 bytes, then LevelDB's log format (crc, length, kind; blocks of 32 KiB)."""
    from wandb.proto import wandb_internal_pb2

    data, position, records, parts = file.read_bytes(), 7, [], b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if (room := 32768 - position % 32768) < 7:
            position += room
            continue
        length, kind = struct.unpack("<HB", data[position + 4 : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


@pytest.mark.slow
def test_wandb_offline_goes_on_in_the_same_run(small_model: Path, tmp_path: Path, dead_address: str) -> None:
    interrupted_run(small_model, "tracker=wandb", "tracker.project=counsel", "-m", f"sweep_dir={tmp_path}/betas")
    (run_dir,) = (path for path in (tmp_path / "betas").iterdir() if path.is_dir())
    attempts = sorted((run_dir / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(attempts) == 2, "one file per attempt"
    runs, history = [], {}
    for file in attempts:
        for record in wandb_records(file):
            if record.HasField("run"):
                runs.append(record.run)
            if record.HasField("history"):
                items = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item
                }
                history[items["_step"]] = items
    assert len({run.run_id for run in runs}) == 1, "the resumed attempt continues the run"
    assert {(run.project, run.run_group) for run in runs} == {("counsel", "betas")}
    expected = {line["step"]: line["loss"] for line in metrics_of(run_dir) if "loss" in line}
    assert {step: items["loss"] for step, items in history.items() if "loss" in items} == pytest.approx(expected)
    keys = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": dead_address}
    said = cli("jobs", "sync", str(run_dir), cwd=tmp_path, check_code=2, **keys).stderr
    assert said == f"error: {dead_address} cannot be reached: repeat the command where there is a network\n"


def test_metrics_after_the_checkpoint_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, -1)
    for step in range(5):
        log.write({"step": step})
    log.sync()
    with open(path, "a") as file:
        file.write('{"step": 5, "lo')  # a kill in the middle of a line
    MetricsLog(path, 2).write({"step": 3, "again": True})
    assert read_metrics(path) == [{"step": 0}, {"step": 1}, {"step": 2}, {"step": 3, "again": True}]


class Printing:
    """Stand-in for a run, with the attributes that StepLog reads."""

    is_main = True

    def __init__(self, run_dir: Path, *overrides: str) -> None:
        self.dir, self.files, self.config = run_dir, RunDir(run_dir), check(compose(list(overrides)))


@pytest.mark.parametrize("kind", ["wandb", "tensorboard"])
@pytest.mark.parametrize("texts", [False, True])
def test_texts_go_to_a_tracker_only_where_that_is_said(
    kind: str, texts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "https://track.example")
    given = ["model.system_prompt=prompt-zugzwangerl", "data.confidential=true", "data.allowed_hosts=[track.example]"]
    run = Printing(tmp_path, f"tracker={kind}", *given, *(["tracker.texts=true"] if texts else []))
    records = StepLog(run, lambda step: f"> speech-zugzwangerl {step}")  # type: ignore[arg-type]
    records.open(-1)
    print("printed-zugzwangerl", flush=True)
    records.write({"step": 1, "loss": 0.5})
    records.close()
    sent = b"".join(path.read_bytes() for path in (tmp_path / kind).rglob("*") if path.is_file())
    assert (b"speech-zugzwangerl" in sent) == texts
    assert b"loss" in sent and b"printed-zugzwangerl" not in sent and b"prompt-zugzwangerl" not in sent
    assert not list(tmp_path.rglob("*.patch")), "changes in a checkout stay here"


def test_wandb_without_its_server_is_offline_and_a_repeated_run_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], dead_address: str
) -> None:
    from omegaconf import OmegaConf

    from psychocounsel.engine.telemetry.trackers import Wandb

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", dead_address)
    ids = []
    for _ in range(2):
        for _ in range(2):  # the second attempt resumes
            tracker = Wandb()
            tracker.start(tmp_path / "run", OmegaConf.create({"sweep_dir": None}))
            tracker.log(1, {"loss": 1.0})
            tracker.finish()
            ids.append(tracker.run.id)
        assert len(RunDir(tmp_path / "run").offline_wandb_runs()) >= 1
        shutil.rmtree(tmp_path / "run")
    assert ids[0] == ids[1] != ids[2] == ids[3]
    line = capsys.readouterr().out.splitlines()[0]
    assert f"offline, because {dead_address} cannot be reached; `psychocounsel jobs sync " in line


def test_wandb_keeps_texts_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from omegaconf import OmegaConf

    from psychocounsel.engine.telemetry.trackers import Wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker = Wandb()
    tracker.start(tmp_path, OmegaConf.create({"sweep_dir": None}))
    tracker.text(1, "rollout/samples", "# Round 0\n\n> <b>alone</b>\n")
    tracker.log(1, {"loss": 1.0})
    tracker.finish()
    (page,) = tmp_path.rglob("*.html")
    assert "# Round 0\n\n&gt; &lt;b&gt;alone&lt;/b&gt;\n" in page.read_text()
