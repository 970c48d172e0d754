"""`psychocounsel review`: turns options into a served page, or into the documents of its protocol."""

import contextlib
import json
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.rubric import load_rubric
from psychocounsel.errors import DONE, UserError
from psychocounsel.experts.items.crisis_set import SHIPPED_SET
from psychocounsel.experts.items.kind import KindTexts
from psychocounsel.experts.page.views import PageViews
from psychocounsel.experts.review.blind_review import BlindReview, practice_pairs
from psychocounsel.experts.review.log import PRIVATE, AdverseEvents
from psychocounsel.experts.review.plan import ReviewPlan, fill_in_options, kind_of, open_plan
from psychocounsel.experts.review.protocol import consent_text, is_support_file, support_text, write_protocol
from psychocounsel.experts.review.sheet import exchange_sheets
from psychocounsel.experts.settings import DATA_MISSING, ReviewConfig, read_review, require_packages
from psychocounsel.rundir.paths import ReviewDir
from psychocounsel.rundir.run_config import read_overrides
from psychocounsel.rundir.trained_runs import confidential_folders
from psychocounsel.rundir.trust import refuse_untrusted_run
from psychocounsel.settings.command_line import read_typed
from psychocounsel.settings.own_code import agree_to_file, is_own_file
from psychocounsel.storage.files import expanded, with_noun, write_atomically
from psychocounsel.storage.locks import Lock, holder
from psychocounsel.storage.modes import restrict

# The command

_NOT_STORED = ("review.protocol=", "review.contact.command=", "review.sheet=")
_PATHS = (
    "data",
    "review.consent",
    "review.only",
    "review.rubric",
    "review.support",
)  # stored for other working folders


def say(line: str) -> None:
    print(line, flush=True)


def hold_review(arguments: Sequence[str]) -> int:
    """Serve the review page until SIGINT or SIGTERM, or write the documents of review.protocol. Return the exit code.

    Options of an earlier start are stored in the review's folder and need not be typed again.

    Raises:
        UserError: if the review cannot be served, with what to type instead.
    """
    typed = read_typed(ReviewConfig, arguments)
    files = _files_of(typed)
    refuse_untrusted_run(files.path, whole=False)
    line = [*read_overrides(files.overrides), *arguments]
    config = read_review(line)
    if not is_own_file(files.overrides):
        _refuse_foreign(config, typed, files)
    # Somebody else may have made the folder, so no form of its stored options may run a program or write elsewhere.
    for name in ("protocol", "sheet"):
        config.review[name] = typed.review[name]
    config.review.contact.command = typed.review.contact.command
    kind = kind_of(config.data, files)
    fill_in_options(config, line, kind)
    if config.review.protocol is not None:
        for text in write_protocol(expanded(config.review.protocol), config, kind.texts):
            say(text)
        return DONE
    if config.review.sheet is None:
        require_packages("review", ("starlette", "uvicorn"))
    _refuse_confidential(config)
    restrict(0o077)
    is_new = not files.path.exists()
    files.path.mkdir(parents=True, exist_ok=True)
    try:
        with _owned(files):
            _serve(config, files, line, kind.texts)
    except UserError:
        if is_new:
            _remove_empty(files)
        raise
    return DONE


def _refuse_foreign(config: DictConfig, typed: DictConfig, files: ReviewDir) -> None:
    """Refuse paths and an address that are not typed but stored in a folder that somebody else may have made.

    The page would show any file of this user, and the experts' links would lead to another host. Paths into the folder itself
    are its own content.
    """
    for key in (*_PATHS, "review.address"):
        value = OmegaConf.select(config, key)
        if (
            value is None
            or value == OmegaConf.select(typed, key)
            or value == SHIPPED_SET
            or value.startswith("builtin:")
        ):
            continue
        if key == "review.support" and not is_support_file(value):
            continue
        if key == "review.address" or not expanded(value).resolve().is_relative_to(files.path.resolve()):
            raise UserError(
                f"{key}={value}: {files.overrides} has it, and no command of yours has written that file: if it is right, type "
                f"{key}=VALUE again"
            )


def _remove_empty(files: ReviewDir) -> None:
    """Remove the folder that a refused start has made, unless something is in it."""
    if {*files.path.iterdir()} <= {files.lock}:
        files.lock.unlink(missing_ok=True)
        files.path.rmdir()


def _files_of(config: DictConfig) -> ReviewDir:
    if config.out is not None:
        return ReviewDir(expanded(config.out))
    if config.data is None:
        raise UserError(DATA_MISSING)
    if config.data == SHIPPED_SET:
        raise UserError("out is not set: the crisis set ships with the package; give out=FOLDER for its review")
    return ReviewDir.of(expanded(config.data))


def _refuse_confidential(config: DictConfig) -> None:
    """Refuse a proxy address for confidential data unless the data's settings allow its host."""
    host = urlsplit(config.review.address or "").hostname
    if not host or config.data == SHIPPED_SET:
        return
    for folder, hosts in confidential_folders(Path(config.data)):
        if host not in hosts:
            raise UserError(
                f"review.address: {folder} is confidential and its allowed_hosts do not include {host}; add the host there first"
            )


@contextlib.contextmanager
def _owned(files: ReviewDir) -> Iterator[None]:
    lock = Lock(files.lock)
    if not lock.take():
        other = holder(files.lock) or {}
        raise UserError(
            f"{files.path}: process {other.get('pid', '?')} on {other.get('host', '?')} is serving this review; stop it first"
        )
    try:
        yield
    finally:
        lock.release()


def _serve(config: DictConfig, files: ReviewDir, line: Sequence[str], texts: KindTexts) -> None:
    options = config.review
    rubric = load_rubric(options.rubric)
    if options.practice > len(practice_pairs(rubric)):
        raise UserError(
            f"review.practice={options.practice}: the rubric has {len(practice_pairs(rubric))} practice pairs; give at most that"
        )
    support = support_text(config)
    if options.consent is not None:
        consent_text(config, texts, 0)  # reports an unreadable file before anything is written
    plan = open_plan(config, files, say)
    consent = consent_text(config, texts, max(map(len, plan.shown.values())))
    adverse = AdverseEvents(files.adverse_events, list(options.contact.command), say)
    if options.sheet is not None:
        _store(files, line)
        with contextlib.closing(BlindReview(plan, files, options, rubric, consent, adverse)) as review:
            exchange_sheets(review, expanded(options.sheet), say)
        say(f"{files.experts}: answers for evaluate evaluation.experts=[FILE]; the same command reads returned tables")
        return
    from psychocounsel.experts.page.routes import ReviewPages, hosts_of

    listener = listening(options.port)
    port = listener.getsockname()[1]
    _store(files, [*line, f"review.port={port}"])  # storing the port keeps the experts' links valid
    review = BlindReview(plan, files, options, rubric, consent, adverse)
    pages = ReviewPages(review, PageViews(review, support), hosts_of(port, options.address), say)
    try:
        _until_stopped(pages.application(), listener, _lines(config, plan, review, port))
    finally:
        review.close()
    say(f"The page is no longer served. Answers are in {files.path}; run the same command to serve it again.")


def _store(files: ReviewDir, line: Sequence[str]) -> None:
    write_atomically(files.overrides, "".join(f"{text}\n" for text in _last_values(line)), mode=PRIVATE)
    agree_to_file(files.overrides)


def _last_values(line: Sequence[str]) -> list[str]:
    """Return the options to store for the next start: the last value of each key, with absolute paths."""
    kept = {text.partition("=")[0]: text for text in line if not text.startswith(_NOT_STORED)}
    return [_with_absolute_path(key, text) for key, text in kept.items()]


def _with_absolute_path(key: str, text: str) -> str:
    value = text.partition("=")[2]
    if key not in _PATHS or value == SHIPPED_SET or not value or not expanded(value).exists():
        return text
    return f"{key}={json.dumps(str(expanded(value).absolute()), ensure_ascii=False)}"  # YAML reads this quoted text


def _until_stopped(application: Any, listener: Any, lines: Sequence[str]) -> None:
    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        serve(application, listener, lambda: say("\n".join(lines)))
    except KeyboardInterrupt:
        pass  # Ctrl-C: answers in progress are saved by now
    finally:
        signal.signal(signal.SIGTERM, before)


def _lines(config: DictConfig, plan: ReviewPlan, review: BlindReview, port: int) -> list[str]:
    """Return lines for the study's organiser: links, progress and warnings."""
    options = config.review
    base = (options.address or f"http://{HOST}:{port}").rstrip("/")
    lines = [
        f"{with_noun(len(plan.items), 'item')} for {with_noun(len(plan.shown), 'expert')}. Send each link to its expert only:"
    ]
    for name, rater in review.raters.items():
        state = "withdrawn" if rater.withdrawn else f"{len(rater.answers)} of {len(rater.shown)} answered"
        lines.append(f"  {name}  {base}/{plan.tokens[name]}/  ({state})")
    if not options.address:
        lines.append(
            "Only this machine can open the page. For experts elsewhere use a proxy with HTTPS: "
            f"review.address=https://HOST/PATH review.port={port}"
        )
    elif options.address.startswith("http:"):
        lines.append("WARNING: review.address has no HTTPS: links and answers can be read in transit.")
    if not options.contact.name:
        lines.append(
            "WARNING: review.contact.name is not set: a report of a person at risk reaches only this terminal."
        )
    elif not options.contact.command:
        lines.append(
            f"review.contact.command is not set: the page asks experts to contact {options.contact.name} themselves."
        )
    if not options.support:
        lines.append(
            "WARNING: review.support is not set: experts who stop see a general text without your contact address."
        )
    if "[FILL" in review.consent:
        lines.append(
            "WARNING: the consent text has gaps, marked [FILL: ...]; write it by review.protocol=FOLDER and fill it in."
        )
    if undelivered := review.adverse.undelivered():
        reports = with_noun(len(undelivered), "report of a person at risk has", "reports of a person at risk have")
        lines.append(f"WARNING: {reports} not reached the contact.")
    return [*lines, "Press Ctrl-C to stop; no answer is lost."]


# Server on loopback, until Ctrl-C or SIGTERM

HOST = "127.0.0.1"


def listening(port: int) -> socket.socket:
    """Return a socket bound to 127.0.0.1. Port 0 picks a free port.

    Raises:
        UserError: if the port is taken.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise UserError(f"review.port={port}: cannot be opened ({error.strerror}); 0 takes a free port") from error
    return listener


def serve(application: Any, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal arrives; open requests are still answered. `ready` is called once the server accepts requests.

    Requests are not logged, because their addresses are secret.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    settings = uvicorn.Config(
        application,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=10,
        timeout_keep_alive=30,
        limit_concurrency=200,
        h11_max_incomplete_event_size=32_000,
    )
    Server(settings).run(sockets=[listener])
