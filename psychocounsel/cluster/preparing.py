"""Work of `psychocounsel prepare`: fetches models and data from the hub, and checks them like a job."""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.asking.system_prompts import refuse_system_prompts
from psychocounsel.cluster.job import Job, Submission, pin
from psychocounsel.cluster.job_rows import count_rows
from psychocounsel.data.privacy import is_confidential
from psychocounsel.errors import CONTINUE_LATER, DONE, UserError, hide_words
from psychocounsel.remote import hub, hub_sources
from psychocounsel.remote.hub_sources import HubSource
from psychocounsel.storage.files import readable_size


def prepare(jobs: list[Job], config: DictConfig) -> Submission:
    """Fetch the models and datasets of all jobs, pin new runs to their commits, and run the checks that precede model loading.

    With `dry_run`, only print what would be fetched.

    Raises:
        UserError: if something cannot be fetched or used.
    """
    hub.set_cache_directories(config.paths.cache)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    sources = list(dict.fromkeys(source for job in jobs for source, _ in job.command.repositories(job.config)))
    if sources:
        _fetch(sources, jobs, config)
    else:
        _say("nothing to fetch: model and data ship with the package or are local")
    if not config.dry_run:
        hub.go_offline()  # like the jobs
        _check(jobs)
        _say("ready: jobs can run with HF_HUB_OFFLINE=1")
    return Submission(DONE, [None] * len(jobs))


def _fetch(sources: list[HubSource], jobs: list[Job], config: DictConfig) -> None:
    repositories = []
    for source in sources:
        repositories.append(repository := hub.look_up(source))
        share = "all" if repository.missing == repository.size else readable_size(repository.missing)
        missing = f"{share} of it to download" if repository.missing else "all of it in the cache"
        _say(
            f"{source.kind:<8}{source.id}  commit {repository.commit[:12]}  {readable_size(repository.size)}, {missing}"
        )
    needed, free = sum(repository.missing for repository in repositories), hub.free_space()
    _say(f"to download: {readable_size(needed)}; free in {hub.cache_folder()}: {readable_size(free)}")
    if needed > free:
        raise UserError(
            f"{readable_size(needed)} does not fit into {hub.cache_folder()}, where {readable_size(free)} are free: "
            "give paths.cache=FOLDER (or HF_HOME, where that is set) on a larger disk"
        )
    if config.dry_run:
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    kept = {source for job in jobs for source, revision in job.command.repositories(job.config) if revision}
    for repository in repositories:
        hub.fetch(repository)
        if repository.source in kept and repository.source.revision is None:
            hub_sources.record(config.paths.cache, repository.source, repository.commit)
            _say(
                f"new runs use commit {repository.commit[:12]} of {repository.source.id}; existing runs keep their own"
            )


def _stop(*_: object) -> None:
    """Exit at once, because huggingface_hub would wait for its threads' downloads. Partial files are removed."""
    print("stopped: complete files are kept, and the same command resumes", file=sys.stderr, flush=True)
    this_thread = threading.get_ident()
    # From here on, huggingface_hub's threads open no other file.
    sys.addaudithook(
        lambda event, _: time.sleep(3600) if event == "open" and threading.get_ident() != this_thread else None
    )
    time.sleep(0.1)  # waits for a file that is being opened
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if (file := link.readlink()).suffix == ".incomplete":
                file.unlink()
    os._exit(CONTINUE_LATER)


def _check(jobs: list[Job]) -> None:
    """Check the jobs as a worker does before it loads a model; `datasets` keeps its converted files."""
    hide_words(any(is_confidential(job.command, job.config) for job in jobs))
    for job in jobs:
        pin(job)
        refuse_system_prompts(job.config)
    for line in count_rows(jobs, _say):
        _say(line)


def _say(line: str) -> None:
    print(line, flush=True)
