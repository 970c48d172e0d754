"""`python -m psychocounsel.jobs status|logs|cancel|resubmit|sync|archive DIR`: the runs of a sweep or a study, or one run."""

from pathlib import Path
from typing import Any

from psychocounsel.errors import DONE, UserError
from psychocounsel.settings.command_line import Parser, run

_WATCH_SECONDS = 30.0  # between questions to the cluster: a controller serves a whole site


def main(arguments: list[str]) -> int:
    given = [text for text in arguments if _is_override(text)]
    options = _parser().parse_args([text for text in arguments if not _is_override(text)])
    if given and options.command != "resubmit":
        raise UserError(f"{given[0]}: only resubmit takes KEY=VALUE")
    folder = Path(options.folder).expanduser().absolute()
    if not folder.is_dir():
        raise UserError(f"{options.folder}: there is no such folder")
    from psychocounsel.cluster import archive, logs, resubmission
    from psychocounsel.studies.standing import study_status

    of_study = study_status.is_study(folder)
    match options.command:
        case "status":
            _status(folder, of_study, options.watch, options.plot)
        case "cancel" if of_study and not options.indices:
            study_status.cancel(folder)
        case _ if of_study:
            study_status.refuse(folder, options.command)
        case "logs":
            logs.show(folder, options.index, options.rank, options.attempt, options.follow)
        case "cancel":
            resubmission.cancel(folder, options.indices)
        case "resubmit":
            resubmission.resubmit(folder, options.indices, given)
        case "sync":
            archive.sync(folder)
        case "archive":
            archive.archive(folder, Path(options.destination).expanduser().absolute())
    return DONE


def _status(folder: Path, of_study: bool, watched: bool, plotted: bool) -> None:
    from psychocounsel.cluster import status
    from psychocounsel.studies.standing import study_status

    def standing() -> tuple[str, bool]:
        if of_study:
            return study_status.status(folder)
        found = status.rows(folder)
        return status.table(found, folder), any(row.is_live for row in found)

    def show() -> tuple[str, bool]:
        text, is_live = standing()
        return (f"{text}\n\n{_charts(folder)}" if plotted else text), is_live

    if watched:
        status.watch(folder, _WATCH_SECONDS, show)
    else:
        print(show()[0])


def _charts(folder: Path) -> str:
    from shutil import get_terminal_size

    from psychocounsel.reporting.terminal.small_charts import small_charts

    return small_charts(folder, get_terminal_size().columns)


def _is_override(text: str) -> bool:
    return "=" in text and not text.startswith("-")


def _parser() -> Parser:
    common = Parser(add_help=False)
    common.add_argument("folder", metavar="DIR", help="a sweep's folder, a run's, a study's, or a stage's of one")
    parser = Parser(prog="python -m psychocounsel.jobs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str) -> Any:
        return commands.add_parser(name, parents=[common], help=help, description=help)

    watch = f"again every {_WATCH_SECONDS:.0f} s, until nothing runs or waits"
    status = command("status", "a line for each run")
    status.add_argument("--watch", action="store_true", help=watch)
    status.add_argument("--plot", action="store_true", help="small charts of loss and reward below it")
    logs = command("logs", "what a run prints")
    logs.add_argument("index", nargs="?", type=int, help="which run of a sweep")
    following = "go on as it grows, over attempts, until the run ends"
    logs.add_argument("-f", "--follow", action="store_true", help=following)
    logs.add_argument("--rank", type=int, default=0)
    logs.add_argument("--attempt", type=int, help="default: the latest")
    again = "failed, stopped and missing runs again: [cluster.time=48h ...] [code=same|current]"
    for name, help in (("cancel", "end runs that wait or run; they can go on later"), ("resubmit", again)):
        command(name, help).add_argument("indices", nargs="*", type=int, metavar="INDEX", help="default: all of them")
    command("sync", "upload what wandb kept on disk where there was no network")
    archive = command("archive", "copy everything but optimizer state")
    archive.add_argument("destination", metavar="DEST", help="a new folder")
    return parser


if __name__ == "__main__":
    run(main)
