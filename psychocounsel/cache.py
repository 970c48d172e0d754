"""`python -m psychocounsel.cache list|prune`: what runs have cached, and removing it. Runs make again what they miss."""

import argparse
import contextlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

from psychocounsel.data.tokenised_cache import ENTRY
from psychocounsel.engine.references.store import ABOUT, FOLDER, LOCK, SHARD
from psychocounsel.errors import DONE, USER_ERROR, UserError
from psychocounsel.storage.blob import Damaged, Foreign, read_about
from psychocounsel.storage.files import read_json, readable_size, shipped
from psychocounsel.storage.locks import holder

_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp")
_UNFINISHED_SECONDS = 3600  # a temporary file that nobody wrote to for so long is that of a killed process


@dataclass
class Entry:
    """What is removed as a whole: `files` of ours, while no live process holds one of `locks`."""

    kind: str
    of: str = "?"
    rows: int = 0
    used: float = 0.0  # seconds since 1970
    files: list[Path] = field(default_factory=list)
    locks: list[Path] = field(default_factory=list)
    folder: Path | None = None  # goes with its last file

    def size(self) -> int:
        return sum(file.stat().st_size for file in self.files if file.exists())

    def line(self) -> str:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.used))
        return f"{self.kind:<11}{self.rows:>9,} rows {readable_size(self.size()):>9}  {used}  {self.of}"


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    cache = _cache_folder(options.cache)
    entries = [entry for entry in _entries(cache) if options.kind in (None, entry.kind)]
    if options.command == "list":
        for entry in sorted(entries, key=lambda each: -each.used):
            print(entry.line())
        print(f"{len(entries)} entries, {readable_size(sum(entry.size() for entry in entries))} in {cache}")
    else:
        limit = time.time() - options.older_than if options.older_than is not None else float("inf")
        _prune([entry for entry in entries if entry.used <= limit], cache, options.dry_run)
    return DONE


def _prune(entries: list[Entry], cache: Path, dry_run: bool) -> None:
    count = freed = 0
    for entry in entries:
        if owner := next(filter(None, map(holder, entry.locks)), None):
            print(f"kept, in use by process {owner['pid']} on {owner['host']}: {entry.line()}")
            continue
        print(f"{'would remove' if dry_run else 'removed'} {entry.line()}")
        count, freed = count + 1, freed + entry.size()
        if not dry_run:
            _remove(entry)
    if not dry_run:
        _remove_unfinished(cache)
    print(f"{'would free' if dry_run else 'freed'} {readable_size(freed)} of {count} entries in {cache}")


def _remove(entry: Entry) -> None:
    for file in [*entry.files, *entry.locks]:
        file.unlink(missing_ok=True)
    if entry.folder is None:
        return
    for file in entry.folder.iterdir():
        if _TEMPORARY.fullmatch(file.name):
            file.unlink(missing_ok=True)
    try:
        entry.folder.rmdir()
    except OSError:
        print(f"left {entry.folder}: it holds files that are none of ours")


def _remove_unfinished(cache: Path) -> None:
    for folder in (cache / "tokenised", *(cache / "reference").glob("*")):
        for file in folder.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if _TEMPORARY.fullmatch(file.name) and time.time() - file.stat().st_mtime > _UNFINISHED_SECONDS:
                    file.unlink()


def _entries(cache: Path) -> Iterator[Entry]:
    for folder in sorted((cache / "reference").glob("*")):
        if FOLDER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
            entry = _reference(folder)
            if entry.files or entry.locks:
                yield entry
    for file in sorted((cache / "tokenised").glob("*")):
        if ENTRY.fullmatch(file.name) and (about := _about(file)) is not None:
            lock = file.with_suffix(".lock")
            yield Entry("tokenised", about["of"], about["rows"], file.stat().st_mtime, [file], [lock])


def _reference(folder: Path) -> Entry:
    entry = Entry("reference", used=folder.stat().st_mtime, folder=folder)
    for file in sorted(folder.iterdir()):
        if SHARD.fullmatch(file.name) and (about := _about(file)) is not None:
            entry.files.append(file)
            entry.rows += about["rows"]
        elif LOCK.fullmatch(file.name):
            entry.locks.append(file)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        entry.of = read_json(folder / ABOUT)["of"]
        entry.files.append(folder / ABOUT)
        entry.used = (folder / ABOUT).stat().st_mtime
    return entry


def _about(file: Path) -> dict[str, Any] | None:
    """What a file of ours says of itself; None for others', and for one that was removed meanwhile."""
    try:
        return read_about(file)
    except Damaged:
        return {"of": "damaged", "rows": 0}
    except (Foreign, OSError):
        return None


# -- the command line


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # subcommands, too

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help tells more")


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False)
    common.add_argument("--kind", choices=("reference", "tokenised"), help="only these (default: both)")
    common.add_argument("--cache", metavar="DIR", help="default: PSYCHOCOUNSEL_CACHE, or ~/.cache/psychocounsel")
    parser = _Parser(prog="python -m psychocounsel.cache", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="kind, rows, size, last use, and what of")
    prune = commands.add_parser("prune", parents=[common], help="remove what no live process is making")
    which = prune.add_mutually_exclusive_group(required=True)
    which.add_argument("--older-than", type=_age, metavar="30d", help="what was not used for so long (h, d, w)")
    which.add_argument("--all", action="store_true", help="everything")
    prune.add_argument("--dry-run", action="store_true", help="say what would be removed, remove nothing")
    return parser


def _age(text: str) -> float:
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no age: give hours, days or weeks as 12h, 30d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def _cache_folder(given: str | None) -> Path:
    default = OmegaConf.select(OmegaConf.load(shipped("conf") / "paths" / "default.yaml"), "cache")
    text = default if given is None else given
    if not text:
        raise UserError("the cache folder is empty: give --cache DIR, or unset PSYCHOCOUNSEL_CACHE")
    folder = Path(text).expanduser()
    if given is not None and not folder.is_dir():
        raise UserError(f"--cache {given}: there is no such folder")
    return folder


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (UserError, OSError) as error:
        from psychocounsel.settings.messages import one_line

        print(f"error: {one_line(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(USER_ERROR)
