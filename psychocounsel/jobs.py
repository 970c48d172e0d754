"""`python -m psychocounsel.jobs status|logs|cancel|resubmit|sync|archive DIR`: the runs of a sweep, or one run, on a cluster."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

from psychocounsel.errors import DONE, USER_ERROR, UserError

_WATCH_SECONDS = 30.0  # between calls of squeue: a controller serves a whole site


def main(arguments: list[str]) -> int:
    given = [text for text in arguments if _is_override(text)]
    options = _parser().parse_args([text for text in arguments if not _is_override(text)])
    if given and options.command != "resubmit":
        raise UserError(f"{given[0]}: only resubmit takes KEY=VALUE")
    folder = Path(options.folder).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"{options.folder}: there is no such folder")
    actions = {"status": _status, "logs": _logs, "cancel": _cancel, "resubmit": _resubmit}
    actions |= {"sync": _sync, "archive": _archive}
    actions[options.command](folder, options, given)
    return DONE


def _is_override(text: str) -> bool:
    return "=" in text and not text.startswith("-")


def _status(folder: Path, options: Any, _: list[str]) -> None:
    from psychocounsel.cluster import status

    if options.watch:
        status.watch(folder, _WATCH_SECONDS)
    else:
        print(status.table(status.rows(folder), folder))


def _logs(folder: Path, options: Any, _: list[str]) -> None:
    from psychocounsel.cluster import logs

    logs.show(folder, options.index, options.rank, options.attempt, options.follow)


def _cancel(folder: Path, options: Any, _: list[str]) -> None:
    from psychocounsel.cluster.slurm import resubmission

    resubmission.cancel(folder, options.indices)


def _resubmit(folder: Path, options: Any, given: list[str]) -> None:
    from psychocounsel.cluster.slurm import resubmission

    resubmission.resubmit(folder, options.indices, given)


def _sync(folder: Path, options: Any, _: list[str]) -> None:
    from psychocounsel.cluster import archive

    archive.sync(folder)


def _archive(folder: Path, options: Any, _: list[str]) -> None:
    from psychocounsel.cluster import archive

    archive.archive(folder, Path(options.destination).expanduser().absolute())


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help tells more")


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("folder", metavar="DIR", help="a sweep's folder, or a run's")
    parser = _Parser(prog="python -m psychocounsel.jobs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str) -> Any:
        return commands.add_parser(name, parents=[common], help=help, description=help)

    command("status", "a line for each run").add_argument(
        "--watch", action="store_true", help=f"again every {_WATCH_SECONDS:.0f} s, until nothing runs or waits"
    )
    logs = command("logs", "what a run prints")
    logs.add_argument("index", nargs="?", type=int, help="which run of a sweep")
    logs.add_argument(
        "-f", "--follow", action="store_true", help="go on as it grows, over attempts, until the run ends"
    )
    logs.add_argument("--rank", type=int, default=0)
    logs.add_argument("--attempt", type=int, help="default: the latest")
    for name, help in (
        ("cancel", "end runs that wait or run; they can go on later"),
        ("resubmit", "failed, stopped and missing runs again: [cluster.time=48h ...] [code=same|current]"),
    ):
        command(name, help).add_argument("indices", nargs="*", type=int, metavar="INDEX", help="default: all of them")
    command("sync", "upload what wandb kept on disk where there was no network")
    archive = command("archive", "copy everything but optimizer state")
    archive.add_argument("destination", metavar="DEST", help="a new folder")
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except (UserError, OSError) as error:
        from psychocounsel.settings.messages import one_line

        print(f"error: {one_line(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(USER_ERROR)
