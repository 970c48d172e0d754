"""Check the CUDA paths on a GPU, row by row, with results as lines and JSON: `python -m benchmarks.gpu_check`. See README.md."""

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.gpu_check.check_rows import NAMES, ROWS
from benchmarks.gpu_check.full_size import write_sample_pairs
from benchmarks.gpu_check.running import FAILED, heading, line, markdown, results, scratch, what_is_here
from psychocounsel.storage.files import write_json


def main() -> None:
    arguments = read_arguments()
    if arguments.table:
        print(markdown(json.loads(arguments.table.read_text())))
        return
    report: dict[str, Any] = {"date": datetime.now().astimezone().isoformat(timespec="minutes"), **what_is_here()}
    print(heading(report), flush=True)
    ends = time.monotonic() + 60 * arguments.minutes
    rows = [row for row in ROWS if row.name in arguments.only]
    report["rows"] = []
    with scratch(arguments.scratch) as folder:
        data = arguments.data or Path(folder) / "pairs.jsonl"
        if not arguments.data:
            write_sample_pairs(data)
        for row in rows:
            place = Path(folder) / row.name
            place.mkdir()
            for result in results([row], report, [str(place), str(data.resolve())], ends):
                report["rows"].append(asdict(result))
                print(line(asdict(result)), flush=True)
                if arguments.output:
                    write_json(arguments.output, report)
    if failed := [row["name"] for row in report["rows"] if row["result"] == FAILED]:
        sys.exit(f"failed: {', '.join(failed)}")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--only", type=_names, default=NAMES, help=f"some of {','.join(NAMES)}")
    parser.add_argument("--output", type=Path, help="JSON, rewritten after every row")
    parser.add_argument(
        "--minutes",
        type=float,
        default=10,
        help="time limit; rows that would start later are not run (10)",
    )
    parser.add_argument(
        "--data", type=Path, help="pairs as JSONL: prompt, chosen, rejected (default: the shipped sample)"
    )
    parser.add_argument("--scratch", type=Path, help="parent folder of temporary models and runs")
    parser.add_argument("--table", type=Path, help="print the rows of such JSON as a Markdown table, and run nothing")
    arguments = parser.parse_args()
    for file in (arguments.data, arguments.table):
        if file and not file.is_file():
            parser.error(f"{file}: no such file")
    return arguments


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: rows are {', '.join(NAMES)}")
    return names


if __name__ == "__main__":
    main()
