"""Names of files in the folders of a run directory and of a report. `paths.py` has the names of the folders."""

import re
from pathlib import Path

CHECKPOINT_NAME = r"step-([0-9]{6}|[1-9][0-9]{6,})"


class AttemptDir:
    """`RUN/logs/02`: the output of the processes of one attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "attempt.json"  # under SLURM: job, nodes, start, end and verdict
        self.srun_errors = path / "srun.err"  # srun's messages about the ranks
        self.failure = path / "failure.txt"  # the last lines of the rank that failed

    def log(self, rank: int) -> Path:
        """Return the run's log, with the tracebacks of this rank."""
        return self.path / f"rank-{rank}.log"

    def output(self, rank: int | str) -> Path:
        """Return the standard output and errors of a rank; `%t` is the rank in an argument of srun."""
        return self.path / f"rank-{rank}.out"

    def engine_log(self, rank: int) -> Path:
        """Return the output of vLLM starting in the process of a rank."""
        return self.path / f"rank-{rank}-engine.log"

    def output_names(self) -> list[str]:
        """Return the names of the existing logs and outputs."""
        return sorted(path.name for path in self.path.glob("rank-*"))


class RoundDir:
    """`RUN/rounds/0003`: the replies of one round, in shards of prompts, and the groups collected from them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "plan.json"  # prompts, prompts per shard, seed
        self.groups = path / "groups.parquet"  # the groups that the algorithm trains on in this round
        self.collected = path / "collected.json"  # figures of the round
        self.samples = path / "samples.md"  # a few replies for people to read

    def shard(self, index: int) -> Path:
        return self.path / f"shard-{index:02d}.parquet"


class CheckpointDir:
    """`RUN/checkpoints/step-000100`: the state of every engine and of the loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "manifest.json"  # size and hash of every file; written last
        self.loop = path / "loop.json"  # the state of the loop

    @property
    def step(self) -> int:
        return int(self.path.name.partition("-")[2])

    @property
    def draft(self) -> "CheckpointDir":
        """The draft of this checkpoint, while it is written."""
        return CheckpointDir(self.path.with_name(f".{self.path.name}.tmp"))

    def description(self, engine: str) -> Path:
        """Return the description of an engine: its parameters, and the part of each that a rank's files hold."""
        return self.path / engine / "engine.json"

    def weights(self, engine: str, rank: int) -> Path:
        """Return a rank's part of the weights of an engine."""
        return self.path / engine / f"weights-{rank:05d}.safetensors"

    def optimizer(self, engine: str, rank: int) -> Path:
        """Return a rank's part of the optimizer's state; an archive has none."""
        return self.path / engine / f"optimizer-{rank:05d}.safetensors"

    def is_optimizer(self, name: str) -> bool:
        """Return True if the file with this relative path holds optimizer state."""
        return Path(name).match("*/optimizer-*.safetensors")


class ReportDir:
    """The files that `report` writes about runs, sweeps and studies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.page = path / "report.html"
        self.cells = path / "report.csv"  # every cell of every table, with all digits
        self.reproducibility = path / "reproducibility.md"
        self.tables = path / "tables"  # LaTeX, one file per table
        self.figures = path / "figures"  # PDF, one file per chart

    def table(self, name: str) -> Path:
        return self.tables / f"{name}.tex"

    def figure(self, name: str) -> Path:
        return self.figures / f"{name}.pdf"

    @property
    def is_report(self) -> bool:
        return self.page.exists() and self.reproducibility.exists()

    def foreign(self) -> list[Path]:
        """Return the files in the folder that are not part of a report; files in progress are ignored."""
        own = (self.page, self.cells, self.reproducibility, self.tables, self.figures)
        inner = (*self.tables.glob("*"), *self.figures.glob("*"))
        others = [path for path in self.path.glob("*") if path not in own]
        others += [path for path in inner if path.suffix not in (".tex", ".pdf")]
        return sorted(path for path in others if not (path.name.startswith(".") and path.name.endswith(".tmp")))


class SubmissionDir:
    """`submissions/0001`: one script and the runs that it is for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "submission.json"  # the ids of its jobs, and their runs
        self.tasks = path / "tasks.txt"  # one line per index of the array: its runs, separated by tabs
        self.script = path / "job.sbatch"

    def job_log(self, task: str) -> Path:
        """Return the output of the batch script of a task, such as `12` or `12_3`."""
        return self.path / f"slurm-{task}.out"

    def begun_jobs(self) -> list[str]:
        """Return the ids of jobs that have begun, from the names of their outputs."""
        names = (re.fullmatch(r"slurm-(\d+)(_\d+)?\.out", path.name) for path in self.path.glob("slurm-*.out"))
        return sorted({match[1] for match in names if match}, key=int)


class ReviewDir:
    """The files of a review by experts, readable for its owner alone, because they hold links, answers and texts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "serving"  # held by the process that serves the page
        self.overrides = path / "overrides.txt"  # options as typed, so that the command need not repeat them
        self.plan = path / "plan.json"  # settings of the draw, and each expert's items in order
        self.items = path / "items.jsonl"  # each item with its texts, stratum and share
        self.links = path / "links.json"  # the secret part of each expert's link
        self.events = path / "events.jsonl"  # all actions of experts, one per line; the other files derive from it
        self.answers = path / "answers.jsonl"  # the valid answers, for `agreement`
        self.experts = path / "experts.jsonl"  # the valid answers with texts, for `evaluate evaluation.experts=[FILE]`
        self.set_review = path / "set_review.csv"  # of a crisis set: answers for `evaluate evaluation.set_review=FILE`
        self.adjudicated = path / "adjudicated.csv"  # of a gate's cases: answers for `evaluate gate.adjudicated=FILE`
        self.adverse_events = path / "adverse_events.jsonl"  # reports of a person at risk, and who was told
        self.consents = path / "consent"  # each version of the consent text that somebody agreed to

    @classmethod
    def of(cls, data: Path) -> "ReviewDir":
        """Return the default folder of a review of the folder or file `data`."""
        return cls((data if data.is_dir() else data.parent) / "review")

    def consent(self, version: str) -> Path:
        return self.consents / f"{version}.md"
