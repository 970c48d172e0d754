"""Unusable files that a user may have: rows, models, configurations and run directories."""

import gzip
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from psychocounsel.cluster.job import make_job, write_run_directory
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.rundir.manifest import write_manifest
from psychocounsel.rundir.paths import RunDir
from psychocounsel.rundir.results import write_summary
from psychocounsel.settings.command import command_of
from psychocounsel.storage.hashes import mark_of
from tests.support.composed import check, compose
from tests.support.harness import TINY

PAIR = {"prompt": "I can't sleep.", "chosen": "What keeps you awake?", "rejected": "Just relax."}
_RATED = {f"{side}_{name}_rating": 3 for side in ("chosen", "rejected") for name in PRINCIPLES}
_USER, _THERAPIST = ({"role": role, "content": "Hello."} for role in ("user", "assistant"))


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in PAIR.items() if name != key}


def rated(**changes: Any) -> dict[str, Any]:
    ratings = dict.fromkeys(PRINCIPLES, 3) | {"safety": 4}
    other = dict.fromkeys(PRINCIPLES, 2) | changes
    return {"prompt": "Hello.", "replies": [{"text": "One.", "ratings": ratings}, {"text": "Two.", "ratings": other}]}


# Each file has one good row, followed by the bad row given here.
ROWS: dict[str, Any] = {
    "no_prompt": without("prompt"),
    "no_chosen": without("chosen"),
    "no_rejected": without("rejected"),
    "empty_chosen": PAIR | {"chosen": " "},
    "empty_prompt": PAIR | {"prompt": ""},
    "number_prompt": PAIR | {"prompt": 3},
    "number_reply": PAIR | {"rejected": 3},
    "list_of_texts": PAIR | {"chosen": ["What?"]},
    "same_replies": PAIR | {"rejected": PAIR["chosen"]},
    "surrogate": PAIR | {"chosen": "\ud800"},
    "id_list": PAIR | {"id": [1]},
    "ends_on_therapist": PAIR | {"prompt": [_USER, _THERAPIST]},
    "unknown_role": PAIR | {"prompt": [{"role": "narrator", "content": "Hello."}]},
    "no_role": PAIR | {"prompt": [{"content": "Hello."}]},
    "empty_talk": PAIR | {"prompt": []},
    "empty_turn": PAIR | {"prompt": [{"role": "user", "content": ""}]},
    "reply_of_client": PAIR | {"chosen": [_USER]},
    "reply_of_other_talk": PAIR | {"chosen": [_THERAPIST, _THERAPIST]},
    "weighted": {"messages": [_USER, {**_THERAPIST, "weight": 0.5}]},
    "messages_without_reply": {"messages": [_USER]},
    "messages_text": {"messages": "Hello."},
    "other_talks": {"chosen": [_USER, _THERAPIST], "rejected": [_USER, _USER, _THERAPIST]},
    "no_columns": {"text": "Hello."},
    "nothing": {},
    "rating_9": PAIR | _RATED | {"chosen_safety_rating": 9},
    "rating_0": PAIR | _RATED | {"rejected_empathy_rating": 0},
    "rating_text": PAIR | _RATED | {"chosen_safety_rating": "good"},
    "rating_true": PAIR | _RATED | {"chosen_safety_rating": True},
    "rating_huge": PAIR | _RATED | {"chosen_safety_rating": 10**400},
    "reply_rating_6": rated(safety=6),
    "reply_rating_none": rated(safety=None),
    "replies_text": {"prompt": "Hello.", "replies": "One."},
    "replies_empty": {"prompt": "Hello.", "replies": []},
    "replies_without_ratings": {"prompt": "Hello.", "replies": [{"text": "One."}, {"text": "Two."}]},
    "replies_without_text": {"prompt": "Hello.", "replies": [{"ratings": {}}]},
    "a_list": [1, 2],
    "a_number": 3,
    "a_text": "Hello.",
}
RAW: dict[str, bytes] = {  # content of the second line
    "no_json": b"{'prompt': 'x'}",
    "cut_json": b'{"prompt": "x", "chos',
    "deep_json": b"[" * 100_000 + b"]" * 100_000,
    "long_id": b'{"id": ' + b"7" * 5000 + b', "prompt": "a", "chosen": "b", "rejected": "c"}',
    "not_utf8": b'{"prompt": "\xff", "chosen": "b", "rejected": "c"}',
    "two_rows_a_line": b'{"prompt": "a"} {"prompt": "b"}',
}


HUGE = b"7" * 400  # a number that no float can hold

# Ten lines of aliases that stand for 400 million values
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 9)}]\n" for number in range(1, 10)
)


def make_data(folder: Path) -> None:
    """Write `<name>.jsonl` for each bad row, and whole files that cannot be read."""
    folder.mkdir()
    good = json.dumps(PAIR).encode() + b"\n"
    raw = RAW | {name: json.dumps(row).encode() for name, row in ROWS.items()}
    for name, line in raw.items():
        (folder / f"{name}.jsonl").write_bytes(good + line + b"\n")
    files = {
        "empty.jsonl": b"",
        "blank.jsonl": b"\n\n",
        "empty.json": b"",
        "mapping.json": b"{}",
        "empty_list.json": b"[]",
        "deep.json": RAW["deep_json"],
        "bad_row.json": b"[3]",
        "text.parquet": b"hello",
        "empty.parquet": b"",
        "empty.csv": b"",
        "other.csv": b"a,b\n1,2\n",
        "ragged.csv": b'prompt,chosen,rejected\na,b,c\nd,e,f,g,h,"i\n',
        "not_gzip.jsonl.gz": b"hello",
        "cut.jsonl.gz": gzip.compress(good * 50)[:60],
        "rows.parquet.gz": b"x",
        "rows.txt": b"hello",
        "rows": good,
        "rows.pt": b"hello",
        "labels.jsonl": b'{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n',
        "one_label.jsonl": b"".join(b'{"prompt": "%d", "completion": "b", "label": true}\n' % n for n in range(20)),
        "long.jsonl": json.dumps(PAIR | {"prompt": "sleep " * 3000}).encode() + b"\n",
        "unlabelled.jsonl": b'{"prompt": "a", "completion": "b", "label": 1}\n{"prompt": "c", "completion": "d"}\n',
        "one_reply.jsonl": b'{"prompt": "a", "completion": "b"}\n',
        "all_bad.jsonl": b"3\n4\n",
        "one_prompt.jsonl": b"".join(json.dumps(PAIR | {"chosen": f"Why {n}?"}).encode() + b"\n" for n in range(4)),
        "good.jsonl": b"".join(json.dumps(PAIR | {"prompt": f"Day {n}."}).encode() + b"\n" for n in range(20)),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    table = pa.table({"prompt": ["a"], "chosen": ["b"], "rejected": [None]})
    pq.write_table(table, folder / "null.parquet")
    twice = [pa.array(["a"])] * 4
    pq.write_table(
        pa.Table.from_arrays(twice, names=["prompt", "prompt", "chosen", "rejected"]), folder / "twice.parquet"
    )
    late = {name: pa.array(["a"]) for name in ("prompt", "chosen", "rejected")} | {
        "id": pa.array([2**62], pa.timestamp("us"))
    }
    pq.write_table(pa.table(late), folder / "late.parquet")
    with zipfile.ZipFile(folder / "excel.xlsx", "w") as excel:
        excel.writestr("xl/workbook.xml", "<workbook/>")
    for ending in ("csv", "json", "jsonl", "parquet"):
        shutil.copy(folder / "excel.xlsx", folder / f"excel.{ending}")
    (folder / "empty_folder").mkdir()
    odd = folder / "odd_folder"
    odd.mkdir()
    (odd / "state.json").write_text("{")


def make_models(folder: Path) -> None:
    """Write copies of the shipped model, each with one changed file."""

    def model(name: str, change: Callable[[Path], Any]) -> None:
        copy = folder / name
        shutil.copytree(TINY, copy, copy_function=os.symlink)
        change(copy)

    def written(file: str, content: bytes) -> Callable[[Path], Any]:
        def write(copy: Path) -> None:
            (copy / file).unlink(missing_ok=True)  # it is a link, so writing would change the shipped file
            (copy / file).write_bytes(content)

        return write

    weights = (TINY / "model.safetensors").read_bytes()
    header = int.from_bytes(weights[:8], "little")
    moved = weights[8 : 8 + header].replace(b'"data_offsets":[0,', b'"data_offsets":[4,', 1)
    model("cut", written("model.safetensors", weights[:-1000]))
    model("cut_header", written("model.safetensors", weights[:100]))
    model("longer", written("model.safetensors", weights + b"more"))
    model("misheaded", written("model.safetensors", (1 << 40).to_bytes(8, "little") + weights[8:]))
    model("moved_offsets", written("model.safetensors", weights[:8] + moved + weights[8 + header :]))
    model("header_text", written("model.safetensors", weights[:8] + b"x" * header + weights[8 + header :]))
    model("empty_weights", written("model.safetensors", b""))
    model("text_weights", written("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"))
    model("no_weights", lambda copy: (copy / "model.safetensors").unlink())
    model("pickle", lambda copy: (copy / "model.safetensors").rename(copy / "pytorch_model.bin"))
    model("pickle_pt", lambda copy: (copy / "model.safetensors").rename(copy / "model.pt"))
    model("empty_config", written("config.json", b""))
    model("garbled_config", written("config.json", b"{"))
    model("list_config", written("config.json", b"[]"))
    model("other_config", written("config.json", b'{"model_type": "nonesuch"}'))
    model("garbled_tokenizer", written("tokenizer.json", b"{"))
    model("no_tokenizer", lambda copy: [file.unlink() for file in copy.glob("tokenizer*")])
    model("bad_template", written("chat_template.jinja", b"{% for %}"))
    model("empty_template", written("chat_template.jinja", b""))
    index = {"weight_map": {"a": "model-1.safetensors"}}
    model("missing_shard", written("model.safetensors.index.json", json.dumps(index).encode()))
    model("empty_index", written("model.safetensors.index.json", b"{}"))
    for kind, content in {"list": b"[1]", "number": b"3", "cut": b"{", "huge": b'{"step": %s}' % HUGE}.items():
        model(f"record_{kind}", written("psychocounsel.json", content))
    model("record_folder", lambda copy: (copy / "psychocounsel.json").mkdir())
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (folder / "empty").mkdir()
    (folder / "latin.jinja").write_bytes(b"\xff")


def make_configs(folder: Path) -> None:
    """Write folders for --config-dir."""
    files = {
        "syntax/algo/mine.yaml": "lr: [1\n",
        "tabs/algo/mine.yaml": "lr:\n\t- 1\n",
        "twice/algo/mine.yaml": "lr: 1\nlr: 2\n",
        "list/algo/mine.yaml": "- 1\n",
        "no_target/algo/mine.yaml": "lr: 1e-6\n",
        "no_module/algo/mine.yaml": "_target_: nowhere.Mine\n",
        "no_class/algo/mine.yaml": "_target_: psychocounsel.algo.dpo.Nope\n",
        "other_class/algo/mine.yaml": "_target_: pathlib.Path\n",
        "broken_code/algo/mine.yaml": "_target_: broken_code.Mine\n",
        "broken_code/exits.py": "raise SystemExit(7)\n",
        "broken_code/broken_code.py": "def :\n",
        "wrong_key/algo/mine.yaml": "_target_: psychocounsel.algo.sft.SFT\nbetta: 1\n",
        "missing_default/algo/mine.yaml": "defaults: [nowhere]\n_target_: psychocounsel.algo.sft.SFT\n",
        "bad_sweep/sweep/mine.yaml": "cross: 3\n",
        "sweep_syntax/sweep/mine.yaml": "cross: {\n",
        "uneven_sweep/sweep/mine.yaml": "pair: {seed: [1, 2], algo.lr: [1]}\n",
        "experiment/experiment/mine.yaml": "# @package _global_\nalgo: {loss_type: ipo, label_smoothing: 0.1}\n",
        "both/experiment/mine.yaml": "# @package _global_\nepochs: 2\nmax_steps: 3\n",
        "binary/algo/mine.yaml": "\0",
        "bomb/algo/mine.yaml": BOMB,
        "bomb/study.yaml": BOMB,
        "bomb/rubric/rubric.yaml": BOMB,
        "bomb/rubric/risk.yaml": BOMB,
        "bomb/persons.yaml": BOMB,
        "bomb/criteria.yaml": BOMB,
        "deep_sweep/sweep/mine.yaml": f"cross: {'[' * 5000}{']' * 5000}\n",
    }
    for name, content in files.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)


def make_runs(folder: Path) -> None:
    """Write run directories of the default configuration, nearly all with one damaged or missing file."""

    checked = check(compose(["max_steps=2", f"run_dir={folder}"]))

    def run(name: str, change: Callable[[RunDir], Any]) -> None:
        config = deepcopy(checked)
        config.run_dir = str(folder / name)
        job = make_job(command_of("psychocounsel.train"), config, ["max_steps=2"])
        write_run_directory(job)
        change(job.files)

    def checkpoint(files: RunDir, loop: bytes) -> None:
        place = files.checkpoint(1)
        place.path.mkdir(parents=True)
        place.loop.write_bytes(loop)
        write_manifest(place.path, {place.loop.name: mark_of(place.loop)})

    for kind, content in {"garbled": b"{", "empty": b"", "list": b"[1]", "number": b"3", "binary": b"\xff\xfe"}.items():
        run(f"summary_{kind}", lambda files, content=content: files.summary.write_bytes(content))  # type: ignore[misc]
        run(f"loop_{kind}", lambda files, content=content: checkpoint(files, content))  # type: ignore[misc]
        run(f"config_{kind}", lambda files, content=content: files.config.write_bytes(content))  # type: ignore[misc]
        run(f"job_{kind}", lambda files, content=content: files.job.write_bytes(content))  # type: ignore[misc]
        run(f"state_{kind}", lambda files, content=content: files.state.write_bytes(content))  # type: ignore[misc]
    run("config_bomb", lambda files: files.config.write_text(BOMB))
    run("summary_huge", lambda files: files.summary.write_bytes(b'{"status": "finished", "total_steps": %s}' % HUGE))
    run("state_huge", lambda files: files.state.write_bytes(b'{"total": %s}' % HUGE))
    run("summary_control", lambda files: files.summary.write_text('{"status": "\\u001b[31m\\u202e"}'))
    run("whole", lambda files: write_summary(files.path, "finished", metrics={}))
    run("no_job", lambda files: files.job.unlink())
    run("no_config", lambda files: files.config.unlink())
    run("no_module", lambda files: files.job.write_text("{}"))
    run("two_processes", lambda files: checkpoint(files, b'{"processes": 2}'))
    run("thesis", lambda files: [files.config.unlink(), files.job.unlink()])
    sweep = folder / "sweep"
    sweep.mkdir()
    (sweep / "sweep.jsonl").write_text('{"index": 0}\n')
    (folder / "file").write_text("")


def make_all(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    make_data(folder / "data")
    (folder / "models").mkdir()
    make_models(folder / "models")
    make_configs(folder / "configs")
    make_runs(folder / "runs")
    return folder
