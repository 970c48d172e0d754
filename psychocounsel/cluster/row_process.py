"""Check of rows in a separate process before jobs start, so that the submitting process loads no tokenizer."""

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from psychocounsel.cluster.job import Job
from psychocounsel.cluster.job_rows import count_rows, rows_key
from psychocounsel.cluster.local_ranks import forked, prepare_forks, worker_environment
from psychocounsel.data.privacy import own_reply_files, paths_of
from psychocounsel.errors import UserError, hide_words, words
from psychocounsel.remote import hub
from psychocounsel.remote.hub_sources import HubSource
from psychocounsel.settings.targets import target_names

_NEEDED = [
    "transformers",
    "psychocounsel.model.tokenizer",
    "psychocounsel.data.dataset",
    "psychocounsel.engine.schedule",
]
_EXIT_SECONDS = 5.0
_TOKENISED = ("model.path", "data.path", "data.eval_path", "data.mix")  # keys of the sources of rows


def check_rows(jobs: Sequence[Job], preload: Sequence[str] = _NEEDED, threads: str = "") -> list[str]:
    """Return lines about the jobs' training rows, held-out rows and numbers of steps.

    Each distinct tokenisation is made once and stays in `paths.cache` for the jobs. The check runs in a process forked
    from one that has imported the modules `preload`. `threads` is its number of threads ("": one per core).

    Raises:
        UserError: for rows that a job cannot use.
    """
    lines, ready = list[str](), list[Job]()
    jobs = [job for job in jobs if job.command.reads_rows(job.config)]
    for job in jobs:
        if missing := _not_here(job):
            lines.append(f"rows unchecked: {missing}")
        else:
            ready.append(job)
    if ready:
        lines = [*_in_child(_distinct(ready), preload, threads), *lines]
    return list(dict.fromkeys(lines))


def prepare_check(job: Job, preload: Sequence[str] = _NEEDED, threads: str = "") -> None:
    """Start the imports of a later `check_rows` of this job and others like it, in a separate process."""
    prepare_forks(_environment(job, threads), preload)


def _environment(job: Job, threads: str) -> dict[str, str]:
    return worker_environment(job, 1, "", threads or str(len(os.sched_getaffinity(0))), gpu=False)


def _not_here(job: Job) -> str:
    """Return a line about the first missing source of the rows, or "" if all sources are here."""
    model = job.config.get("model")
    if model is not None and Path(model.path).is_absolute() and not Path(model.path).exists():
        return f"model.path={model.path} does not exist yet"
    for path in (*paths_of(job.config.data), *map(str, own_reply_files(job.config.data))):
        if path and Path(path).is_absolute() and not Path(path).exists():
            return f"{path} does not exist yet"
    for source, kept in _missing(job):
        if kept and source.key.startswith(_TOKENISED):
            return (
                f"{source.key}={source.id} is not in {job.config.paths.cache} and no folder here; first run "
                "`psychocounsel prepare` with these overrides"
            )
    return ""


def _distinct(jobs: Sequence[Job]) -> list[Job]:
    """Return one job for each tokenisation, algorithm and length."""
    distinct: dict[tuple[str, str, str], Job] = {}
    for job in jobs:
        length = [job.config.get(key) for key in ("epochs", "max_steps", "global_batch_size")]
        distinct.setdefault((rows_key(job), repr(job.config.get("algo")), repr(length)), job)
    return list(distinct.values())


def _in_child(jobs: list[Job], preload: Sequence[str], threads: str) -> list[str]:
    process, pipe = forked(_count, (jobs,), _environment(jobs[0], threads), preload)
    try:
        kind, content = pipe.recv()
    except EOFError:
        process.join()
        return [f"rows unchecked: the process that read them was killed (exit code {process.exitcode})"]
    else:
        process.join(_EXIT_SECONDS)  # killing the process would leak semaphores, and Python would warn the user
    finally:
        process.kill()
        process.join()
    if kind == "refused":
        raise UserError(content)
    if kind == "failed":
        raise RuntimeError(content)
    return content if isinstance(content, list) else [content]


def _spare_torch(jobs: Sequence[Job]) -> None:
    """Keep transformers from importing torch (2.5 s) if only shipped code runs, because its tokenisation needs none."""
    own = [name for job in jobs for name in target_names(job.config) if not name.startswith("psychocounsel.")]
    if own or "torch" in sys.modules:
        return
    import transformers

    for module in (transformers.utils, transformers.utils.import_utils):
        setattr(module, "is_torch_available", lambda: False)  # noqa: B010


def _count(pipe: Connection, environment: dict[str, str], jobs: list[Job]) -> None:
    """Work of the child process: send its lines, or the reason of a failure. Output of libraries is discarded."""
    os.environ.update(environment)
    lines: list[str] = []
    silence = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(silence, number)
    answer: tuple[str, Any]
    from psychocounsel.data.privacy import protect

    try:
        hub.set_cache_directories(jobs[0].config.paths.cache)
        hub.go_offline()
        for job in jobs:
            protect(job.command, job.config, job.run_dir)
        hide_words(any(job.config.data.confidential for job in jobs))
        _spare_torch(jobs)
        counts = [*count_rows(jobs, lines.append)]  # which adds to `lines`
        answer = "counted", [*lines, *counts]
    except UserError as error:
        answer = "refused", str(error)
    except ImportError as error:
        answer = "counted", f"rows unchecked: a package is missing here ({str(error).splitlines()[0]})"
    except BaseException:
        import traceback

        answer = "failed", words(traceback.format_exc())
    pipe.send(answer)
    sys.exit(0)


# Models and data that jobs need and that the cache does not contain.


def unfetched(jobs: Sequence[Job], why: str = "", asked: bool = False) -> str:
    """Return the first model or data set missing in its job's cache, with the command that fetches it; "" if none is missing.

    `why` is appended to the name of the cache. `asked`: also models whose revision the run does not keep, such as judges.
    """
    for job in jobs:
        if missing := next((source for source, kept in _missing(job) if kept or asked), None):
            typed = sys.argv[1:]
            if not ({"-m", "--multirun"} & {*typed} or {*job.overrides} <= {*typed}):
                typed = job.overrides  # a study or `jobs resubmit` was typed
            given = shlex.join(text for text in typed if not text.startswith(("dry_run=", "hydra.")))
            given = given if job.command.trains else f"--config-name {job.command.name} {given}"
            where = f"{missing.key}={missing.id} is not in {job.config.paths.cache} and no folder here"
            return f"{where}{why}: first run `psychocounsel prepare {given}`"
    return ""


def to_be_fetched(jobs: Sequence[Job]) -> list[str]:
    """Return a line for each model that the jobs would take from the hub themselves, because their caches lack it."""
    return list(
        dict.fromkeys(
            f"{source.id}: no folder here and not in {job.config.paths.cache}, so the run asks the hub for it"
            for job in jobs
            for source, kept in _missing(job)
            if not kept
        )
    )


def _missing(job: Job) -> Iterator[tuple[HubSource, bool]]:
    """Yield the hub repositories of a job that its cache lacks, each with True if the run keeps its revision."""
    for source, revision in job.command.repositories(job.config):
        if hub.cached(source, job.config.paths.cache) is None:
            yield source, bool(revision)
