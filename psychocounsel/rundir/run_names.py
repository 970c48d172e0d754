"""Names of a sweep's runs: `beta-0.3_seed-2`, made from the swept keys by their shortest unambiguous names."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from psychocounsel.rundir.identity import slug
from psychocounsel.rundir.paths import ONLY_CELL, run_of_model

_SCIENTIFIC = re.compile(r"([+-]?[0-9.]+)[eE]\+?(-?)0*([0-9]+)")
_WORDS = {"True": "true", "False": "false", "None": "null"}
_STRUCTURED = re.compile(r"[\[\]{},:]")


@dataclass(frozen=True)
class Naming:
    """The parts of a job's name.

    `swept`: its overrides in which the jobs differ. `fixed`: its other overrides. `shown`: the swept overrides with
    shortened paths. `mark`: a hash that distinguishes jobs of the same name.
    """

    swept: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    mark: str = ""

    @property
    def swept_keys(self) -> list[str]:
        return list(map(key_of, self.swept))

    @property
    def name(self) -> str:
        return self.joined([])

    def joined(self, fixed: Sequence[str]) -> str:
        """Return the name with some of the fixed overrides before the swept ones."""
        name = cell_name([*fixed, *self.shown])
        return slug(f"{name}-{self.mark}") if self.mark else name


def namings(jobs: Sequence[Sequence[str]]) -> list[Naming]:
    """Return the naming of each job of one command, from the overrides of all jobs."""
    counts = Counter(text for job in jobs for text in set(job))
    parts = [_parted(job, {text for text in job if counts[text] < len(jobs)}) for job in jobs]
    short = _short_values([swept for swept, _ in parts])
    made = [Naming(swept, fixed, tuple(short[text] for text in swept)) for swept, fixed in parts]
    owners: dict[str, set[tuple[str, ...]]] = {}
    for each in made:
        owners.setdefault(each.name, set()).add(each.swept)
    return [each if len(owners[each.name]) == 1 else replace(each, mark=_mark(each.swept)) for each in made]


def cell_name(overrides: Sequence[str]) -> str:
    """Return a folder's name: `algo.beta=0.3 seed=2` gives `beta-0.3_seed-2`; no overrides give `run`.

    A key is shortened to its last part, unless two keys have the same last part.
    """
    keys = list(map(key_of, overrides))
    last = [key.rpartition(".")[2] for key in keys]
    shown = [end if last.count(end) == 1 else key for key, end in zip(keys, last, strict=True)]
    texts = [slug(f"{key}-{_value(text)}") for key, text in zip(shown, overrides, strict=True)]
    return slug("_".join(texts)) if texts else ONLY_CELL


def key_of(override: str) -> str:
    """Return the dotted key of an override, or of a group."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].replace("/", ".")


def _parted(job: Sequence[str], telling: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the swept and the fixed overrides, without Hydra's own."""
    own = [text for text in job if not key_of(text).startswith("hydra.")]
    return tuple(text for text in own if text in telling), tuple(text for text in own if text not in telling)


def _value(override: str) -> str:
    """Return the value as shown in a name: 1e-06 as 1e-6, without quotes."""
    text = override.partition("=")[2].strip("'\"")
    if found := _SCIENTIFIC.fullmatch(text):
        return f"{found[1]}e{found[2]}{found[3]}"
    return _WORDS.get(text, text).lstrip("/")


def _short_values(jobs: Sequence[Sequence[str]]) -> dict[str, str]:
    """Return each override with a shortened path: its last meaningful part, if no other value of the key has the same."""
    texts: dict[str, dict[str, str]] = {}
    for text in (text for job in jobs for text in job):
        head, equals, value = text.partition("=")
        texts.setdefault(key_of(text), {})[text] = f"{head}{equals}{_telling_part(value)}"
    result: dict[str, str] = {}
    for short in texts.values():
        unique = len(set(short.values())) == len(short)
        result |= short if unique else {text: text for text in short}
    return result


def _telling_part(value: str) -> str:
    text = value.strip("'\"")
    if "/" not in text or _STRUCTURED.search(text):
        return value
    path = Path(text)
    return (run_of_model(path) or path).name or value


def _mark(swept: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(swept).encode()).hexdigest()[:8]


def telling_name(path: Path, parent: bool = False) -> str:
    """Return the part of a path that names a run or model: `beta` for runs/beta/model, `sft` for STUDY/sft/run/model.

    With `parent`, and for a folder that names only a seed, the parent's name is a prefix: `dpo_seed-1`.
    """
    parts = [*path.parts]
    while len(parts) > 2 and (parts[-1] in ("model", "best", ONLY_CELL) or re.fullmatch("best-[0-9a-f]{8}", parts[-1])):
        parts.pop()
    has_prefix = parent or re.fullmatch(r"seed-\d+", parts[-1]) is not None
    return "_".join(parts[-2:] if has_prefix and len(parts) > 2 else parts[-1:])
