"""`psychocounsel report DIR [DIR ...]`: makes a page of tables and figures of runs, sweeps, studies and evaluations.

Writes report.html (opens without a network), report.csv, tables/*.tex, figures/*.pdf and reproducibility.md.
"""

import webbrowser
from pathlib import Path

from psychocounsel.errors import DONE, UserError
from psychocounsel.settings.command_line import Parser, run
from psychocounsel.storage.files import expanded


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    from psychocounsel.reporting.maker import Options, build_report, make_report, unfinished

    folders = [expanded(text) for text in options.folders]
    chosen = Options(None if options.out is None else Path(options.out), not options.no_text)
    if options.port is not None and not options.watch:
        raise UserError("--port: has no effect without --watch; add --watch, or drop it")
    if options.watch:
        if options.out is not None:
            raise UserError("--out cannot be combined with --watch, which writes no files; drop one of them")
        from psychocounsel.reporting.watching import watch

        watch(lambda: build_report(folders, chosen)[1], options.port or 0, options.open)
        return DONE
    made = make_report(folders, chosen)
    for line in (*made.listed(), *made.notes, unfinished(made.material)):
        print(line)
    if options.open and not webbrowser.open(made.files.page.as_uri()):
        raise UserError(f"--open: no browser was found; open {made.files.page} yourself")
    return DONE


def _parser() -> Parser:
    parser = Parser(prog="psychocounsel report", description=__doc__)
    what = "of a run, a sweep, an annotation, an audit, an evaluation, a study or a stage; or a folder of such folders"
    parser.add_argument("folders", metavar="DIR", nargs="+", help=f"folder {what}")
    where = (
        "folder to write (an earlier report is replaced); default: `report` in the folder given, or here for several"
    )
    parser.add_argument("--out", metavar="FOLDER", help=where)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--no-text", action="store_true", help="leave out speeches and replies (automatic with confidential data)"
    )
    again = "serve the page on this machine (127.0.0.1) and update it while runs continue; writes no files"
    parser.add_argument("--watch", action="store_true", help=again)
    parser.add_argument("--port", type=int, help="port of --watch; default: a free port")
    return parser


if __name__ == "__main__":
    run(main)
