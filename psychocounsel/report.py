"""`python -m psychocounsel.report DIR [DIR ...]`: a page of tables and figures on runs, sweeps, studies and evaluations.

Writes report.html (opens without a network), report.csv, tables/*.tex, figures/*.pdf and reproducibility.md.
"""

import webbrowser
from pathlib import Path

from psychocounsel.errors import DONE, UserError
from psychocounsel.settings.command_line import Parser, run


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    from psychocounsel.reporting.report_making import Options, build_report, make_report, unfinished

    folders = [Path(text).expanduser() for text in options.folders]
    chosen = Options(None if options.out is None else Path(options.out), not options.no_text)
    if options.watch:
        if options.out is not None:
            raise UserError("--out: --watch writes no files; give one of the two")
        from psychocounsel.reporting.watching import watch

        watch(lambda: build_report(folders, chosen)[1], options.port, options.open)
        return DONE
    made = make_report(folders, chosen)
    for line in (*made.listed(), *made.notes, unfinished(made.material)):
        print(line)
    if options.open and not webbrowser.open(made.files.page.as_uri()):
        raise UserError(f"--open: there is no browser here; open {made.files.page} with one")
    return DONE


def _parser() -> Parser:
    parser = Parser(prog="python -m psychocounsel.report", description=__doc__)
    what = "of a run, a sweep, an annotation, an audit, an evaluation, a study or one of its stages; or one that holds several"
    parser.add_argument("folders", metavar="DIR", nargs="+", help=f"folder {what}")
    where = "folder to write; default: `report` in the one folder given, or here; an earlier report there is replaced"
    parser.add_argument("--out", metavar="FOLDER", help=where)
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--no-text", action="store_true", help="show no speech and no reply (as with confidential data)"
    )
    again = "serve the page on this machine (127.0.0.1) and make it again as runs go on; writes no files"
    parser.add_argument("--watch", action="store_true", help=again)
    parser.add_argument("--port", type=int, default=0, help="of --watch; default: a free one")
    return parser


if __name__ == "__main__":
    run(main)
