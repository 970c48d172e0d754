"""Paths of all files in runs, sweeps, studies, reports and reviews. Only this module spells their names.

No object here writes to the disk. Paths stored inside the files are relative, so that a folder may be moved.
"""

import re
from pathlib import Path

CHECKPOINT_NAME = r"step-([0-9]{6}|[1-9][0-9]{6,})"


# Folders in a run directory, and those of reports, submissions and reviews


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
        """Return the names of the log and output files that exist."""
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
        """Return the review directory of the folder or file `data`, used if the user names none."""
        return cls((data if data.is_dir() else data.parent) / "review")

    def consent(self, version: str) -> Path:
        return self.consents / f"{version}.md"


# Runs, sweeps and studies


class RunDir:
    """The files of a run directory: of a training, an evaluation or an audit."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # Files that define the run, written before it starts.
        self.config = path / "config.yaml"  # the checked configuration; workers read it and never compose
        self.job = path / "job.json"  # module, index in the sweep, and the runs that must finish first
        self.overrides = path / "overrides.txt"  # the overrides of its command, one per line
        self.code = path / "code.txt"  # version and, in a git checkout, commit and diff
        # Files in which the run reports.
        self.state = path / "state.json"  # attempt, phase, step, total, heartbeat
        self.environment = path / "environment.json"  # nodes, versions, GPUs, fingerprints of data and weights
        self.metrics = path / "metrics.jsonl"  # one line per step
        self.summary = path / "summary.json"  # status (finished, stopped, failed) and final figures
        self.scores = path / "scores.jsonl"  # of an evaluation: the scores of each pair
        self.tables = path / "tables.txt"  # of an evaluation or audit: all its tables, as verbose=true prints them
        self.reliability = path / "reliability.json"  # of an evaluation: bins of calibration, risk at each coverage
        self.audit = path / "audit.json"  # of an audit: all its figures
        self.logs = path / "logs"  # a folder for each attempt, and the output of servers on this machine
        self.latest_attempt = self.logs / "latest"  # a link
        self.failure = path / "failure"  # the rows of a batch with a loss or gradient that is not finite
        self.ranker_answers = path / "ranker_answers"  # journal of language models that rank pairs
        self.profile = path / "profile"  # traces
        self.tensorboard = path / "tensorboard"
        self.wandb = path / "wandb"
        # Files that control the run.
        self.owner = path / "owner.json"  # the lock of the process that works here
        self.earlier = path / "earlier.json"  # copies, until the resumed run accepts its settings
        self.stop = path / "stop"  # creating this file asks the run to stop
        # Results of the run.
        self.checkpoints = path / "checkpoints"
        self.latest_checkpoint = self.checkpoints / "latest"  # a file with the folder's name
        self.rounds = path / "rounds"  # replies of algorithms with rollouts
        self.reward_answers = path / "reward_answers"  # journal of a language model that rewards replies
        self.client_answers = path / "client_answers"  # journal of a language model that plays clients
        self.before = self.rounds / "before.parquet"  # replies to held-out prompts before training
        self.model = path / "model"  # the best model so far
        self.export = path / "export"  # default folder of `psychocounsel export`
        # Servers on separate nodes, running during training.
        self.servers = path / "servers"
        self.server_key = self.servers / "key"  # the secret that the servers and the run share

    @property
    def journals(self) -> tuple[Path, ...]:
        """The folders with paid answers of language models; a command that works in steps has `answers`, too."""
        return self.ranker_answers, self.reward_answers, self.client_answers

    def attempt(self, number: int) -> AttemptDir:
        return AttemptDir(self.logs / f"{number:02d}")

    def attempt_numbers(self) -> list[int]:
        """Return the numbers of the attempts so far, oldest first."""
        return sorted(int(path.name) for path in self.logs.glob("[0-9]*") if path.name.isdigit())

    def checkpoint(self, step: int) -> CheckpointDir:
        return CheckpointDir(self.checkpoints / f"step-{step:06d}")

    def checkpoint_dirs(self) -> list[CheckpointDir]:
        """Return the checkpoints, complete or not, oldest first."""
        named = (path for path in self.checkpoints.glob("step-*") if re.fullmatch(CHECKPOINT_NAME, path.name))
        return sorted((CheckpointDir(path) for path in named if path.is_dir()), key=lambda checkpoint: checkpoint.step)

    def checkpoint_leftovers(self) -> list[Path]:
        """Return the remains of killed writers: drafts, and checkpoints that were moved aside."""
        hidden = self.checkpoints.glob(".step-*")
        return [path for path in hidden if re.fullmatch(rf"\.{CHECKPOINT_NAME}\.(tmp|old)", path.name)]

    def round(self, number: int) -> RoundDir:
        return RoundDir(self.rounds / f"{number:04d}")

    def sample_pages(self) -> list[Path]:
        """Return the pages of replies of all rounds, the newest last."""
        return sorted(self.rounds.glob("*/samples.md"))

    def failed_rows(self, step: int, rank: int) -> Path:
        return self.failure / f"step-{step:06d}-rank-{rank}.jsonl"

    def trace(self, rank: int) -> Path:
        return self.profile / f"rank-{rank}.json"

    def server(self, number: int) -> Path:
        """Return the file with the address of a ready server."""
        return self.servers / f"{number}.json"

    def ended_server(self, number: int) -> Path:
        """Return the file that tells how a server ended that nobody had asked to."""
        return self.servers / f"{number}.ended"

    def ended_servers(self) -> list[Path]:
        return sorted(self.servers.glob("*.ended"))

    def ready_servers(self) -> list[Path]:
        return sorted(self.servers.glob("*.json"))

    def server_log(self, number: int) -> Path:
        """Return the file with the output of a server on the run's machine."""
        return self.logs / f"server-{number}.out"

    def offline_wandb_runs(self) -> list[Path]:
        """Return the folders of wandb runs stored offline because there was no network."""
        return sorted(path for path in self.wandb.glob("offline-run-*") if path.is_dir())


class StepsDir(RunDir):
    """The files of a command that works in steps: a run directory with a journal and a record of each step."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.answers = path / "answers"  # the journal of all paid answers
        self.steps = path / "steps"  # a record of each finished step

    def step(self, name: str) -> Path:
        """Return the record of a step: its settings, inputs and figures."""
        return self.steps / f"{name}.json"


class AnnotationDir(StepsDir):
    """The files of an annotate directory, which is a run directory with tables."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.speeches = path / "speeches.parquet"  # client speeches, one per row
        self.dropped_speeches = path / "dropped_speeches.parquet"  # dropped rows, with reasons; no texts
        self.identifier_sample = path / "identifier_sample.md"  # speeches to check by hand for identifiers
        self.replies = path / "replies.parquet"  # every reply, or the reason for a missing one
        self.votes = path / "votes.parquet"  # every rating that an annotator gave, with reasons
        self.dataset = path / "dataset"  # the result for training: train.parquet, test.parquet and the card
        self.card = self.dataset / "README.md"
        self.removed = path / "removed.txt"  # tombstones: hashes of the ids of removed speeches
        self.shards = path / "shards"  # run directories of the jobs that share the work

    def shard(self, index: int) -> "ShardDir":
        return ShardDir(self.shards / f"{index:03d}", self)

    def cleaning(self, index: int) -> "AnnotationDir":
        """Return the directory of a job that cleans a share of the rows of large sources."""
        folder = AnnotationDir(self.shards / f"cleaning-{index:03d}")
        folder.speeches = folder.path / "cleaned.parquet"
        return folder


class ShardDir(AnnotationDir):
    """`OUT/shards/003`: replies and votes of a share of the speeches; speeches and answers belong to the whole directory."""

    def __init__(self, path: Path, whole: AnnotationDir) -> None:
        super().__init__(path)
        self.whole = whole
        self.speeches, self.answers, self.removed = whole.speeches, whole.answers, whole.removed

    def step(self, name: str) -> Path:
        return self.whole.step(name) if name == "speeches" else super().step(name)


class EvaluationDir(StepsDir):
    """The files of an evaluation that asks language models, such as `evaluate evaluation=winrate`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.speeches = path / "speeches.parquet"  # the clients' speeches that contestants reply to
        self.replies = path / "replies.parquet"  # every reply of every contestant, or the reason for a missing one
        self.picks = path / "picks.parquet"  # evaluation=best_of: the best of n replies, by reward model
        self.verdicts = path / "verdicts.parquet"  # the judges' verdicts on each pair of replies, in both orders
        self.controls = path / "controls.parquet"  # verdicts on controls, and on replies against those of the data
        self.exams = path / "exams.parquet"  # evaluation=external: every contestant's answer to every item
        self.ratings = path / "ratings.parquet"  # evaluation=external: the judges' ratings of replies by criteria
        self.safety_answers = path / "safety_answers.parquet"  # evaluation=safety: the judges' answers on each reply
        self.session_turns = path / "session_turns.parquet"  # evaluation=session: each turn of client and counsellor
        self.session_answers = path / "session_answers.parquet"  # evaluation=session: the judges' answers on each reply
        self.flow_answers = path / "flow_answers.parquet"  # evaluation=session: the judges' answers on whole sessions
        self.adjudicate = path / "adjudicate.csv"  # evaluation=gate: cases for people to judge, blind
        self.adjudication_key = path / "adjudication_key.parquet"  # the source of each case, and the judge's verdict
        self.adjudication_record = path / "adjudication_record.json"  # every answer of people that was ever read
        self.ability = path / "ability.json"  # evaluation=external: lm-eval's results, document by document
        self.samples = path / "samples.md"  # some replies of all contestants, for people to read
        self.figures = path / "figures.json"  # every figure with its interval, for `report`
        self.shards = path / "shards"  # run directories of the jobs that share the work

    def shard(self, index: int) -> "EvaluationDir":
        """Return `RUN/shards/003`: tables of a share of the speeches; the answers belong to the whole evaluation."""
        shard = EvaluationDir(self.shards / f"{index:03d}")
        shard.answers = self.answers
        return shard

    def part(self, name: str) -> "EvaluationDir":
        """Return `RUN/parts/safety`: an evaluation that the gate runs; the answers belong to the gate."""
        part = EvaluationDir(self.path / "parts" / name)
        part.answers = self.answers
        return part

    def sample_pages_of_parts(self) -> list[Path]:
        """Return `RUN/parts/NAME/samples.md` of each part of a gate that wrote one."""
        return sorted(self.path.glob("parts/*/samples.md"))


# Names that transformers, tokenizers and peft give to a model's files, but for weights in pickles and for code
_MODEL_FILE = re.compile(
    r"(model|adapter_model)(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|README\.md"
    r"|(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|(additional_chat_templates/[\w-]+|chat_template)\.jinja|(vocab|merges)\.txt"
    r"|(tokenizer|spiece|spm|sentencepiece|sentencepiece\.bpe)\.model"
)


class ModelDir:
    """A trained model: `RUN/model` or an export. Its other files have Hugging Face's names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about = path / "psychocounsel.json"  # the step, and the figures of the evaluation
        self.confidential = path / "confidential.json"  # of an export of confidential data: the hosts it may be sent to

    def files(self) -> tuple[list[Path], list[str]]:
        """Return the files that we write into such a folder, which hold no code, and the names of others in it."""
        known, others = list[Path](), list[str]()
        for file in sorted([*self.path.glob("*"), *self.path.glob("additional_chat_templates/*")]):
            name = file.relative_to(self.path).as_posix()
            if name in (self.about.name, self.confidential.name) or _MODEL_FILE.fullmatch(name):
                known.append(file)
            elif name != "additional_chat_templates":
                others.append(name)
        return known, others


class SweepDir:
    """The files of a sweep's folder, which also contains a folder for each run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.table = path / "sweep.jsonl"  # index, overrides and folder of each run
        self.table_lock = path / "listing.json"  # held by the process that changes the table
        self.multirun = path / "multirun.yaml"  # written by Hydra
        self.best = path / "best"  # of a search, or a study's stage that chooses: a link to the best run
        self.best_record = path / "best.json"  # the metric, the choice and its candidates

    def journal(self, mark: str) -> Path:
        """Return a search's record of trials, in the format of optuna's journals; `mark` separates searches in one folder."""
        return self.path / f"search-{mark}.journal"


class StudyDir:
    """The files of a study: a sweep folder for each stage, and the study's tables."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study = path / "study.yaml"  # the study as launched, with all values filled in
        self.cells = path / "cells.json"  # the current run directories of the study, by stage
        self.forced = path / "forced.json"  # how often force=[STAGE] has repeated each stage
        self.owner = path / "owner.json"  # the lock of the process that launches it
        self.table = path / "table"  # the run directory of the job that writes the tables

    def stage(self, name: str) -> "StageDir":
        return StageDir(self.path / name)

    def written_table(self, name: str, ending: str) -> Path:
        """Return the file of a table of results: `table.csv`, `table.md`, `table.tex`, or with another name."""
        return self.path / f"{name}.{ending}"


class StageDir(SweepDir):
    """`STUDY/STAGE`: a sweep's folder, even if the stage has only one run."""

    def selection(self, fingerprint: str) -> "SelectionDir":
        """Return the directory of the job that chooses the best cell; `fingerprint` identifies the metric and cells."""
        return SelectionDir(self.path / f"select-{fingerprint[:8]}")

    def cell(self, name: str) -> Path:
        """Return the run directory of a cell."""
        return self.path / name


class SelectionDir:
    """`STUDY/STAGE/select-1a2b3c4d`: the run directory of the job that chooses a stage's best cell."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best = path.with_name(path.name.replace("select", "best", 1))  # a link that later stages refer to
        self.record = path / "best.json"  # the metric, the choice and its candidates


def is_selection(folder: Path) -> bool:
    return re.fullmatch(r"select-[0-9a-f]{8}", folder.name) is not None


ONLY_CELL = "run"  # the run directory's name if nothing is swept


def cell_record(run_dir: Path) -> Path:
    """Return `study.json` in a run directory: the stage and the fingerprint of the cell."""
    return run_dir / "study.json"


def outputs_of(parent: Path) -> list[Path]:
    """Return the run directory `parent`, and the link `best-...` next to it if the run chooses a stage's best cell."""
    return [parent, SelectionDir(parent).best] if is_selection(parent) else [parent]


class SubmissionHome:
    """The files of submissions to a queue, in the sweep's folder, or in the folder of a run outside a sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.submissions = path / "submissions"
        self.code = path / "code"  # copies of the code, named by their content
        self.lock = path / "submitting.json"  # lock of the command that submits from here

    def submission(self, number: int | str) -> SubmissionDir:
        return SubmissionDir(self.submissions / f"{number:0>4}")

    def submission_numbers(self) -> list[int]:
        return [int(path.name) for path in self.submissions.glob("[0-9]*")]

    def submission_dirs(self) -> list[SubmissionDir]:
        """Return the submissions, oldest first."""
        return [SubmissionDir(path) for path in sorted(self.submissions.glob("[0-9]*"))]


def run_of_model(path: Path) -> Path | None:
    """Return the run whose `model/` is `path`, by name alone; None for any other folder."""
    return path.parent if path == RunDir(path.parent).model else None
