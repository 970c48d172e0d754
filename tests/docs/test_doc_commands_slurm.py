"""The pages' commands for a cluster run on a real SLURM, as a reader types them who has followed docs/cluster.md.

The reader's preset `slurm_mine` stands for `slurm`, because the nodes of the test cluster have no real GPUs. Commands that need
GPUs, vLLM or a hub model are shortened to the shipped model on CPU, or are dry runs.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.docs.test_doc_commands import shown
from tests.support.doc_blocks import Command
from tests.support.doc_reader import SHORT
from tests.support.harness import cli
from tests.support.slurm_cluster import Cluster, start

_PRESET = "defaults: [slurm_cpu]\ncpus_per_process: 1\nmemory: 2G\ntime: 30m\n"
_HELD = "+cluster.sbatch.hold=true"
_ONLINE = ["rollout=hf", "rollout.max_tokens=8", "algo.prompts_per_round=4"]
_SMALL = ["model=tiny", "zero=0", "data=sample", *SHORT["train"]]
# The overrides of the trial of study=paper in docs/studies.md.
_TRIAL = [
    "data='data=sample'",
    "test=null",
    "general=builtin:sample",
    "general_split=train",
    "rows=8",
    "seeds=[11]",
    "rates=[5e-7,1e-6]",
    "train='model=tiny zero=0 max_length=1024 max_steps=1 global_batch_size=2 data.limit=8 eval.limit=2'",
    "online='rollout=hf rollout.max_tokens=8 algo.prompts_per_round=2'",
    "ask='limit=2 replies.max_tokens=8'",
    "measure='limit=8'",
    "opponent={path: 'builtin:tiny_dpo', name: opponent}",
    "base_3b=builtin:tiny_dpo",
    "base_8b=builtin:tiny",
    "judge='judge=tiny'",
]


class Reader:
    """A reader of the pages in a folder with a preset, who types printed commands on a cluster."""

    def __init__(self, slurm: Cluster, folder: Path) -> None:
        self.slurm, self.folder = slurm, folder
        preset = folder / "my" / "cluster" / "slurm_mine.yaml"
        preset.parent.mkdir(parents=True)
        preset.write_text(_PRESET)

    def type(self, page: str, begins: str, *more: str, code: int = 0, instead: dict[str, str] | None = None) -> str:
        """Run the page's command that begins with these words, with `more` overrides; return its output.

        `instead` replaces arguments of the page, for instance a folder that stands for any.
        """
        command = printed(page, begins)
        exchanged = {"cluster=slurm": "cluster=slurm_mine", **(instead or {})}
        typed = [exchanged.get(text, text) for text in command.arguments]
        own = ["--config-dir=my"] if "cluster=slurm_mine" in typed else []
        done = cli(command.name, *own, *typed, *more, cwd=self.folder, check_code=None, **self.slurm.environment)
        said = done.stdout + done.stderr
        assert done.returncode == code and "Traceback" not in said, f"{command}\n{typed}\n{said[-3000:]}"
        return said

    def ended(self, place: str) -> set[str]:
        return {*self.slurm.ended(self.folder / place)}

    def watches_while_jobs_wait(self, command: Command, place: str) -> bool:
        """Return True if `jobs status ... --watch` shows `place` as pending and does not end by itself."""
        watch = subprocess.Popen(
            [sys.executable, "-m", f"psychocounsel.{command.name}", *command.arguments],
            cwd=self.folder,
            env={**os.environ, **self.slurm.environment},
            stdout=subprocess.PIPE,
            text=True,
        )
        shown_line = next((line for line in watch.stdout or [] if line.rstrip().endswith(place)), "")
        with pytest.raises(subprocess.TimeoutExpired):
            watch.wait(2)
        watch.kill()
        watch.wait()
        return "1 pending" in shown_line


def printed(page: str, begins: str) -> Command:
    """Return the command of a page that equals these words, or otherwise the first that begins with them."""
    found = [each for each in shown() if each.page == page and _line(each).startswith(begins)]
    assert found, f"{page} has no command `{begins} ...`"
    return min(found, key=lambda each: _line(each) != begins)


def _line(command: Command) -> str:
    return " ".join([command.name, *command.arguments])


@pytest.fixture(scope="module")
def reader(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    for slurm in start(small_model):
        yield Reader(slurm, tmp_path_factory.mktemp("reader"))


@pytest.mark.slow
def test_the_first_commands_of_the_page_on_clusters(reader: Reader) -> None:
    said = reader.type("docs/cluster.md", "train algo=dpo cluster=slurm_mine", *SHORT["train"])
    assert "\ntiny with data=sample: 24 training groups" in said and "submitted job " in said
    said = reader.type("docs/cluster.md", "train -m algo.beta", *SHORT["train"], instead={"seed=1,2,3": "seed=1"})
    assert "submitted array of 3 as job" in said and "at most 4 at a time" in said
    assert "algo.beta=0.01" in reader.type("docs/cluster.md", "jobs status sweeps/beta")
    assert reader.ended("runs/dpo") == reader.ended("sweeps/beta") == {"finished"}
    assert "Training loss" in reader.type("docs/report.md", "jobs status sweeps/beta --plot")
    log = reader.type("docs/cluster.md", "jobs logs", instead={"DIR": "sweeps/beta", "INDEX": "1"})
    (line,) = (line for line in log.splitlines() if line.startswith("try next "))
    assert line.endswith("/model --config-dir=my cluster=slurm_mine"), "the next command runs on the same cluster"
    said = reader.type("docs/report.md", "report sweeps/beta", instead={"--open": "--no-text"})
    assert "all 3 runs have ended" in said


@pytest.mark.slow
def test_jobs_of_other_pages_are_submitted_and_cancelled(reader: Reader) -> None:
    sweep = [*SHORT["train"], _HELD, "sweep_dir=sweeps/algorithms"]
    held = {"run_dir=runs/dpo": "run_dir=runs/held"}
    said = reader.type("README.md", "train -m algo=dpo,simpo,ppo,online_dpo", *sweep)
    assert "submitted array of 12 as job" in said
    reader.type("docs/cluster.md", "train algo=dpo cluster=slurm_mine", *SHORT["train"], _HELD, instead=held)
    paper = [*_SMALL, *_ONLINE, "reward=tiny", _HELD, "run_dir=runs/iterative"]
    assert "submitted job" in reader.type("README.md", "train experiment=paper_dpo_iter_8b cluster=slurm", *paper)
    small = [*_SMALL, _HELD, "run_dir=runs/8b"]
    reader.type("docs/cluster.md", "train experiment=paper_dpo_8b cluster=slurm cluster.gpus_per_node=8", *small)
    assert reader.watches_while_jobs_wait(printed("docs/cluster.md", "jobs status runs --watch"), "runs/8b")
    for place in ("sweeps/algorithms", "runs/held", "runs/iterative", "runs/8b"):
        reader.slurm.jobs("cancel", str(reader.folder / place))
    assert reader.ended("sweeps/algorithms") == {"cancelled"}
    reader.type("docs/cluster.md", "jobs forget", instead={"DIR": "runs/held"})
    assert not (reader.folder / "runs" / "held").exists()


@pytest.mark.slow
def test_dry_runs_for_gpus_that_this_cluster_only_pretends_to_have(reader: Reader) -> None:
    on_gpus, few = {"cluster=slurm": "cluster=slurm"}, "cluster.cpus_per_process=2"  # its nodes have 16 CPUs
    said = reader.type("docs/memory.md", "train experiment=paper_dpo_8b cluster=slurm", few, instead=on_gpus)
    assert "at most 192 GPU-hours an attempt" in said and "memory on each of 8 GPUs: about " in said
    named = {**on_gpus, "cluster.partition=NAME": "cluster.partition=main"}
    said = reader.type("docs/cluster.md", "train experiment=paper_dpo_8b cluster=slurm cluster.acc", few, instead=named)
    assert "rows unchecked: model.path=meta-llama/Llama-3.1-8B-Instruct is not in " in said
    said = reader.type("docs/online.md", "train algo=online_dpo rollout=vllm_server", "dry_run=true", instead=on_gpus)
    assert "1 job of 3 nodes" in said


@pytest.mark.slow
def test_speeches_are_cleaned_by_shards(reader: Reader) -> None:
    rows = [
        {"speech": f"I have not slept since {week} weeks ago, when my brother left for good. " * 2} for week in range(6)
    ]
    pd.DataFrame(rows).to_parquet(reader.folder / "my_speeches.parquet")
    small = ["--config-dir=my", "clean_in_shards_above_mb=0"]
    fewer = {"shards=16": "shards=2", "cluster=slurm_cpu": "cluster=slurm_mine"}
    reader.type("docs/annotate.md", "annotate steps=[speeches] speeches=my_speeches.parquet", *small, instead=fewer)
    assert reader.ended("my_preferences") == {"finished"}
    assert len(pd.read_parquet(reader.folder / "my_preferences" / "speeches.parquet")) > 0


@pytest.mark.slow
def test_a_study_is_queued_shown_reported_and_cancelled(reader: Reader) -> None:
    said = reader.type("docs/studies.md", "launch study=paper cluster=slurm", *_TRIAL, "cluster.sbatch={hold: true}")
    assert said.count("submitted ") >= 10
    status = reader.type("docs/studies.md", "jobs status studies/paper")
    assert status.startswith("stage ") and "pending" in status
    said = reader.type("docs/report.md", "report studies/paper --no-text --out paper")
    assert (reader.folder / "paper" / "report.html").is_file()
    reader.slurm.jobs("cancel", str(reader.folder / "studies" / "paper"))
    assert "studies" not in reader.slurm.call("squeue", "--noheader", "--format=%Z %o")
    planned = reader.type("docs/cluster.md", "launch study=paper cluster=slurm_mine", *_TRIAL, "dry_run=true")
    assert "20 jobs to run on cluster=slurm" in planned


@pytest.mark.slow
def test_metrics_stored_offline_are_found_below_the_folder_of_all_runs(reader: Reader) -> None:
    given, tracked = [*SHORT["train"], "tracker=wandb"], {"run_dir=runs/dpo": "run_dir=runs/tracked"}
    reader.slurm.environment["WANDB_MODE"] = "offline"
    reader.type("docs/cluster.md", "train algo=dpo cluster=slurm_mine", *given, instead=tracked)
    assert reader.ended("runs/tracked") == {"finished"}
    said = reader.type("docs/cluster.md", "jobs sync runs", code=2)
    assert re.search("cannot be reached|wandb sync ended with exit code", said), "no network or no key of wandb is here"


def test_every_command_for_a_cluster_is_typed_here_or_tested_elsewhere() -> None:
    """`jobs attach` opens its shell in tests/cluster/slurm/test_causes.py. docs/annotate.md asks vLLM for 32B models on GPUs."""
    elsewhere = {("docs/cluster.md", "jobs attach"), ("docs/annotate.md", "")}
    here = re.findall(r'"((?:docs/)?[\w-]+\.md)",\s*"([a-z][^"]*)"', Path(__file__).read_text())
    assert len(here) > 12, "or this test does not find the commands of the tests above"
    others = [
        str(each)
        for each in shown()
        if re.search(r"slurm|^jobs (attach|logs|forget|sync|status (runs|studies))", _line(each))
        and not any(each.page == page and _line(each).startswith(begins) for page, begins in {*here, *elsewhere})
    ]
    assert not others, "\n".join(others)
