"""`psychocounsel jobs COMMAND DIR`: shows, cancels and resubmits the runs of a sweep, a study, or one run."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psychocounsel.errors import DONE, UserError
from psychocounsel.settings.command_line import Parser, run
from psychocounsel.storage.files import expanded

_WATCH_SECONDS = 30.0  # interval of queries to the cluster, whose controller serves a whole site


def main(arguments: list[str]) -> int:
    given = [text for text in arguments if _is_override(text)]
    options = _parser().parse_args([text for text in arguments if not _is_override(text)])
    if given and options.command != "resubmit":
        raise UserError(f"{given[0]}: only resubmit takes KEY=VALUE")
    folder = expanded(options.folder or os.environ.get("PSYCHOCOUNSEL_OUTPUT", "runs")).absolute()
    if not folder.is_dir():
        raise UserError(f"{options.folder or folder}: no such folder")
    from psychocounsel.cluster import archive, logs, resubmission
    from psychocounsel.studies import status

    of_study = status.is_study(folder)
    match options.command:
        case "list":
            print(status.listing(folder)[0])
        case "status":
            _status(folder, of_study, options.watch, options.plot)
        case "sync":
            archive.sync(folder, [run.run_dir for run in status.runs_below(folder)])
        case "cancel" if of_study and not options.indices:
            status.cancel(folder)
        case _ if of_study:
            status.refuse(folder, options.command)
        case "logs":
            logs.show(folder, options.index, options.rank, options.attempt, options.follow)
        case "attach":
            _attach(folder, options.index)
        case "cancel":
            resubmission.cancel(folder, options.indices)
        case "forget":
            resubmission.forget(folder, options.indices)
        case "resubmit":
            resubmission.resubmit(folder, options.indices, given)
        case "archive":
            archive.archive(folder, expanded(options.destination).absolute())
    return DONE


def completions(before: Sequence[str], word: str) -> list[str]:
    """Return the words that TAB proposes: the commands of `jobs`, and none after one of them (the shell proposes folders)."""
    return [] if before else list(_parser().get_default("commands"))


def _attach(folder: Path, index: int | None) -> None:
    """Replace this process by a shell on a node of a run."""
    from psychocounsel.cluster.logs import run_of
    from psychocounsel.cluster.starting import by_cluster

    run_dir = run_of(folder, index)
    for cluster, _ in by_cluster([run_dir], acts=True):
        command = cluster.shell(run_dir)
        os.chdir(run_dir)
        sys.stdout.flush()
        os.execvp(command[0], command)


def _status(folder: Path, of_study: bool, watched: bool, plotted: bool) -> None:
    from psychocounsel.cluster import states
    from psychocounsel.rundir.run_config import is_run
    from psychocounsel.rundir.sweep import is_sweep
    from psychocounsel.studies import status

    def overview() -> tuple[str, bool]:
        if of_study:
            return status.status(folder)
        if not is_sweep(folder) and not is_run(folder):
            return status.listing(folder)
        rows = states.rows(folder)
        states.add_usage(rows)
        shards = states.shard_rows(rows)
        return states.table(rows, folder, shards), any(row.is_live for row in [*rows, *shards])

    def show() -> tuple[str, bool]:
        text, is_live = overview()
        return (f"{text}\n\n{_charts(folder)}" if plotted else text), is_live

    if watched:
        states.watch(folder, _WATCH_SECONDS, show)
    else:
        print(show()[0])


def _charts(folder: Path) -> str:
    from shutil import get_terminal_size

    from psychocounsel.reporting.small_charts import small_charts

    return small_charts(folder, get_terminal_size().columns)


def _is_override(text: str) -> bool:
    return re.match(r"[+~]*\w[\w.-]*=", text) is not None and not os.path.exists(text)  # a folder may be named lr=1


def _parser() -> Parser:
    of_runs = "folder of a run, a sweep or a stage of a study"
    of_studies = "folder of a run, a sweep, a study or one of its stages"
    parser = Parser(prog="psychocounsel jobs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str, place: str) -> Any:
        added = commands.add_parser(name, help=help, description=help)
        added.add_argument("folder", metavar="DIR", help=place)
        return added

    watch = f"repeat every {_WATCH_SECONDS:.0f} s, until nothing runs or waits"
    status = command("status", "show a line for each run", f"{of_studies}, or a parent folder of runs")
    status.add_argument("--watch", action="store_true", help=watch)
    status.add_argument("--plot", action="store_true", help="add small charts of loss and reward")
    listed = commands.add_parser(
        "list",
        help="list every study, sweep and run below a folder",
        description="show the studies, sweeps and runs below a folder",
    )
    listed.add_argument(
        "folder", metavar="DIR", nargs="?", help="default: the parent folder of runs (PSYCHOCOUNSEL_OUTPUT, or runs)"
    )
    attach = command("attach", "open a shell on the first node of a running run", of_runs)
    attach.add_argument("index", nargs="?", type=int, help="index of the run in a sweep")
    logs = command("logs", "show the output of a run", of_runs)
    logs.add_argument("index", nargs="?", type=int, help="index of the run in a sweep")
    following = "follow the output across attempts, until the run ends"
    logs.add_argument("-f", "--follow", action="store_true", help=following)
    logs.add_argument("--rank", type=int, default=0, help="rank whose output is shown (default: 0)")
    logs.add_argument("--attempt", type=int, help="number of the attempt (default: the latest)")
    again = "resubmit failed, stopped and missing runs: [cluster.time=48h ...] [code=same|current]"
    ends = "cancel runs that wait or run; they can be resumed later"
    forgets = "remove runs without results, so that their folders can get other settings"
    for name, help, place, chosen in (
        ("cancel", ends, of_studies, "default: all of them"),
        ("resubmit", again, of_runs, "default: all that are unfinished"),
        ("forget", forgets, of_runs, "required for a sweep"),
    ):
        command(name, help, place).add_argument("indices", nargs="*", type=int, metavar="INDEX", help=chosen)
    command("sync", "upload wandb runs that were stored offline", f"{of_studies}, or a parent folder of runs")
    archive = command("archive", "copy runs without optimizer state", of_runs)
    archive.add_argument("destination", metavar="DEST", help="a new folder")
    parser.set_defaults(commands=[*commands.choices])
    return parser


if __name__ == "__main__":
    run(main)
