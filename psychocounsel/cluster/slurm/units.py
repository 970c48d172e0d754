"""Times, sizes and numbers in the forms that people and SLURM write."""

import re
from typing import Any

from psychocounsel.errors import UserError

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_FORMS = "24h, 90m, 2d, 1-12:00:00 or 24:00:00"


def seconds_of(value: Any, key: str) -> int:
    """Return the seconds of a time limit: 24h, 90m, 1-12:00:00, 24:00:00.

    Raises:
        UserError: for any other text, and for a plain integer: YAML reads 24:00:00 without quotes as 86400, which sbatch would
            take for minutes.
    """
    text = str(value).strip()
    if isinstance(value, int) or text.isdigit():
        raise UserError(
            f"{key}={text}: a number without a unit (YAML also reads 24:00:00 as a number); write {_FORMS}, in YAML in quotes"
        )
    if parts := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw])", text):
        return _positive(round(float(parts[1]) * _SECONDS[parts[2]]), text, key)
    if parts := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text):
        days, hours, minutes, seconds = (int(part or 0) for part in parts.groups())
        if minutes < 60 and seconds < 60 and not (parts[1] and hours > 23):
            return _positive(days * 86400 + hours * 3600 + minutes * 60 + seconds, text, key)
    raise UserError(f"{key}={text}: is not a time; write {_FORMS}")


def _positive(seconds: int, text: str, key: str) -> int:
    if seconds < 60:
        raise UserError(f"{key}={text}: SLURM counts in minutes; give at least one")
    return seconds


def slurm_time(seconds: int) -> str:
    """Return D-HH:MM:SS, for sbatch."""
    days, rest = divmod(seconds, 86400)
    return f"{days}-{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


def parse_slurm_time(text: str) -> float:
    """Return the seconds of a time printed by squeue or scontrol ([D-][HH:]MM:SS); inf for UNLIMITED."""
    if text.upper() in ("UNLIMITED", "INFINITE", "N/A", "NONE", ""):
        return float("inf")
    days, _, clock = text.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = total * 60 + int(part)
    return int(days or 0) * 86400 + total


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, such as 1 node, 3 nodes or 2 processes."""
    return f"{count} {noun}" + ("" if count == 1 else "es" if noun.endswith("s") else "s")


def megabytes_of(value: Any, key: str) -> int:
    """Return the mebibytes of a memory size: 64G, 64000M, 1T; 0 means all memory of a node.

    Raises:
        UserError: for any other text.
    """
    text = str(value).strip()
    if text == "0":
        return 0
    parts = re.fullmatch(r"(\d+)\s*([KMGT])(?:i?B)?", text, re.IGNORECASE)
    if not parts:
        raise UserError(f"{key}={text}: is not a size; write 64G, 64000M, or 0 for all of a node's memory")
    return max(1, int(parts[1]) * {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}[parts[2].upper()] // 1024)
