"""Names of files in the folders of a run directory, and of a report. `paths.py` names the folders."""

import re
from pathlib import Path

CHECKPOINT_NAME = r"step-([0-9]{6}|[1-9][0-9]{6,})"


class AttemptDir:
    """`RUN/logs/02`: what the processes of one attempt printed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "attempt.json"  # under SLURM: job, nodes, start, end and verdict
        self.srun_errors = path / "srun.err"  # what srun said of the ranks
        self.failure = path / "failure.txt"  # the last lines of the rank that failed

    def log(self, rank: int) -> Path:
        """What the run says, with the tracebacks of this rank."""
        return self.path / f"rank-{rank}.log"

    def output(self, rank: int | str) -> Path:
        """Standard output and errors of a rank; `%t` is the rank in an argument of srun."""
        return self.path / f"rank-{rank}.out"

    def engine_log(self, rank: int) -> Path:
        """What an engine of vLLM in the process of a rank printed while it started."""
        return self.path / f"rank-{rank}-engine.log"

    def output_names(self) -> list[str]:
        """Names of the logs and outputs that are there."""
        return sorted(path.name for path in self.path.glob("rank-*"))


class RoundDir:
    """`RUN/rounds/0003`: the replies of one round, in shards of prompts, and what became of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.plan = path / "plan.json"  # prompts, prompts per shard, seed
        self.groups = path / "groups.parquet"  # what the algorithm trains on in this round
        self.collected = path / "collected.json"  # figures of the round
        self.samples = path / "samples.md"  # a few replies, to be read

    def shard(self, index: int) -> Path:
        return self.path / f"shard-{index:02d}.parquet"


class CheckpointDir:
    """`RUN/checkpoints/step-000100`: the state of every engine, and of the loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "manifest.json"  # size and hash of every file; written last
        self.loop = path / "loop.json"  # the state of the loop

    @property
    def step(self) -> int:
        return int(self.path.name.partition("-")[2])

    @property
    def draft(self) -> "CheckpointDir":
        """The same while it is written."""
        return CheckpointDir(self.path.with_name(f".{self.path.name}.tmp"))

    def description(self, engine: str) -> Path:
        """The parameters of an engine, and which part of each the files of a rank hold."""
        return self.path / engine / "engine.json"

    def weights(self, engine: str, rank: int) -> Path:
        """A rank's part of the weights of an engine."""
        return self.path / engine / f"weights-{rank:05d}.safetensors"

    def optimizer(self, engine: str, rank: int) -> Path:
        """A rank's part of the optimizer's state, which an archive does not have."""
        return self.path / engine / f"optimizer-{rank:05d}.safetensors"

    def is_optimizer(self, name: str) -> bool:
        """Whether the file of this relative path holds optimizer state."""
        return Path(name).match("*/optimizer-*.safetensors")


class ReportDir:
    """What `report` writes of runs, sweeps and studies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.page = path / "report.html"
        self.cells = path / "report.csv"  # every cell of every table, with all digits
        self.reproducibility = path / "reproducibility.md"
        self.tables = path / "tables"  # LaTeX, one file a table
        self.figures = path / "figures"  # PDF, one file a chart

    def table(self, name: str) -> Path:
        return self.tables / f"{name}.tex"

    def figure(self, name: str) -> Path:
        return self.figures / f"{name}.pdf"

    @property
    def is_report(self) -> bool:
        return self.page.exists() and self.reproducibility.exists()

    def foreign(self) -> list[Path]:
        """What lies in the folder and is no part of a report; files that are being written count for nothing."""
        own = (self.page, self.cells, self.reproducibility, self.tables, self.figures)
        inner = (*self.tables.glob("*"), *self.figures.glob("*"))
        others = [path for path in self.path.glob("*") if path not in own]
        others += [path for path in inner if path.suffix not in (".tex", ".pdf")]
        return sorted(path for path in others if not (path.name.startswith(".") and path.name.endswith(".tmp")))


class SubmissionDir:
    """`submissions/0001`: one script, and the runs that it is for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.record = path / "submission.json"  # the ids of its jobs, and their runs
        self.tasks = path / "tasks.txt"  # a line for each index of the array: its runs, parted by tabs
        self.script = path / "job.sbatch"

    def job_log(self, task: str) -> Path:
        """What the batch script of a task, as `12` or `12_3`, printed."""
        return self.path / f"slurm-{task}.out"

    def begun_jobs(self) -> list[str]:
        """The ids of jobs that have begun, by the names of their outputs."""
        names = (re.fullmatch(r"slurm-(\d+)(_\d+)?\.out", path.name) for path in self.path.glob("slurm-*.out"))
        return sorted({match[1] for match in names if match}, key=int)


class ReviewDir:
    """The files of a review by experts. Its owner alone can read them: they hold links, answers and texts."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = path / "serving"  # held by the process that serves the page
        self.overrides = path / "overrides.txt"  # options as typed; the command need not be given them again
        self.plan = path / "plan.json"  # settings of the draw, and what each expert sees in which order
        self.items = path / "items.jsonl"  # each item with its texts, stratum and share
        self.links = path / "links.json"  # the secret part of each expert's link
        self.events = path / "events.jsonl"  # all that experts did, a line an event; everything else is made of it
        self.answers = path / "answers.jsonl"  # the answers that count, for `agreement`
        self.experts = path / "experts.jsonl"  # the same for `evaluate evaluation.experts=[FILE]`, with texts
        self.set_review = path / "set_review.csv"  # of a crisis set: answers for `evaluate evaluation.set_review=FILE`
        self.adjudicated = path / "adjudicated.csv"  # of a gate's cases: answers for `evaluate gate.adjudicated=FILE`
        self.adverse_events = path / "adverse_events.jsonl"  # reports of a person at risk, and who was told
        self.consents = path / "consent"  # each version of the consent text that somebody agreed to

    @classmethod
    def of(cls, data: Path) -> "ReviewDir":
        """Where a review of the folder or file `data` lies, unless `out` says otherwise."""
        return cls((data if data.is_dir() else data.parent) / "review")

    def consent(self, version: str) -> Path:
        return self.consents / f"{version}.md"
