"""Licences by the names that the Hugging Face hub uses, and the strictest of several licences."""

import re
from typing import Any

# Identifiers of the hub, from the freest to the strictest; an unknown licence counts as stricter than all of them.
_LICENCES = (
    {"cc0-1.0", "unlicense", "mit", "bsd-2-clause", "bsd-3-clause", "apache-2.0", "cc-by-4.0"},
    {"cc-by-sa-4.0", "gpl-3.0", "odc-by", "openrail"},
    {"llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "gemma"},
    {"cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"},
)


def strictest(licences: list[str | None]) -> str:
    """Return the strictest of several licences.

    Returns "other" if one is unknown, or if several non-permissive licences are equally strict.
    """

    def rank(licence: str | None) -> int:
        known = [index for index, names in enumerate(_LICENCES) if licence in names]
        return known[0] if known else len(_LICENCES)

    highest = max(map(rank, licences))
    names = {licence for licence in licences if rank(licence) == highest}
    is_free = highest == 0  # among permissive licences any one may be named
    return sorted(map(str, names))[0] if highest < len(_LICENCES) and (is_free or len(names) == 1) else "other"


def identifier(licence: Any) -> str | None:
    """Return the licence in the hub's spelling, such as `my-license-1.0`, or None without a name.

    All licences of a list apply; their names are joined by `-and-`.
    """
    names = licence if isinstance(licence, list) else [licence]
    known = [re.sub(r"[^a-z0-9.+]+", "-", str(name).lower()).strip("-") for name in names if name is not None]
    return "-and-".join(sorted({name for name in known if name})) or None
