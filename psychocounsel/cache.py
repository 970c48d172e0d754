"""`psychocounsel cache list|prune`: lists or removes what runs keep in paths.cache, and compute again if it is missing."""

import argparse
import re
import time
from pathlib import Path

from omegaconf import OmegaConf

from psychocounsel.data import tokenised_cache
from psychocounsel.engine import reference_store
from psychocounsel.engine.sizing import kept_measures
from psychocounsel.errors import DONE, UserError
from psychocounsel.evaluation.winrate import controls_step
from psychocounsel.settings.command_line import Parser, run
from psychocounsel.storage.cache_entries import prune, show
from psychocounsel.storage.files import expanded, shipped

_CACHES = {
    "reference": reference_store,
    "tokenised": tokenised_cache,
    "micro-batch": kept_measures,
    "controls": controls_step,
}
_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    cache = _cache_folder(options.cache)
    entries = [entry for kind in _CACHES if options.kind in (None, kind) for entry in _CACHES[kind].entries(cache)]
    if options.command == "list":
        show(entries, cache)
        return DONE
    limit = time.time() - options.older_than if options.older_than is not None else float("inf")
    folders = [folder for store in _CACHES.values() for folder in store.folders(cache)]
    prune([entry for entry in entries if entry.used <= limit], cache, folders, options.dry_run)
    return DONE


def _parser() -> argparse.ArgumentParser:
    common = Parser(add_help=False)
    common.add_argument("--kind", choices=tuple(_CACHES), help="only this kind (default: all)")
    common.add_argument("--cache", metavar="DIR", help="default: PSYCHOCOUNSEL_CACHE, or ~/.cache/psychocounsel")
    parser = Parser(prog="psychocounsel cache", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", parents=[common], help="list entries: kind, rows, size, last use and source")
    pruning = commands.add_parser("prune", parents=[common], help="remove entries that no live process is writing")
    which = pruning.add_mutually_exclusive_group(required=True)
    which.add_argument("--older-than", type=_age, metavar="30d", help="entries not used for this long (h, d, w)")
    which.add_argument("--all", action="store_true", help="everything")
    pruning.add_argument("--dry-run", action="store_true", help="only print what would be removed")
    return parser


def _age(text: str) -> float:
    if not (match := re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not an age: give hours, days or weeks, such as 12h, 30d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def _cache_folder(given: str | None) -> Path:
    default = OmegaConf.select(OmegaConf.load(shipped("conf") / "paths" / "default.yaml"), "cache")
    text = default if given is None else given
    if not text:
        raise UserError("the cache folder is empty: give --cache DIR, or unset PSYCHOCOUNSEL_CACHE")
    folder = expanded(text)
    if given is not None and not folder.is_dir():
        raise UserError(f"--cache {given}: this folder does not exist")
    return folder


if __name__ == "__main__":
    run(main)
