"""Refusal of secrets in the batch script, because it is stored in the run directory, and SLURM shows it to others.

A secret is recognised by the name that it is assigned to (`HF_TOKEN=...`, `--api-key ...`), or by its form (`hf_...`).
References to a secret (`$HF_TOKEN`, `$(cat FILE)`, `HF_TOKEN_PATH`) are allowed.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from psychocounsel.errors import UserError
from psychocounsel.settings.sections.server_access import SECRET_FORMS

_NAME = re.compile(
    r"token(?!s(?:_|$)|i[sz])|secret|passw|credential|(?:api|access|private|auth)_?key|(?:^|_)(?:key|pat|pass|pwd)s?$",
    re.IGNORECASE,
)
_WHERE_IT_IS = re.compile(r"_(?:path|file|dir)$", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE = r"""("[^"]*"|'[^']*'|[^\s;&|]+)"""
_ASSIGNED = re.compile(rf"(?<![\w$])([A-Za-z_]\w*)=(?={_VALUE})")  # also inside a value: --env=HF_TOKEN=...
_OPTION = re.compile(rf"(?<!\S)--?([A-Za-z][\w-]*)(?:=|\s+){_VALUE}")
_LOGIN = re.compile(r"\blogin\s+(?:--?\w+\s+)*[A-Za-z0-9_-]{20,}")


def refuse_secret_names(names: Iterable[Any], key: str) -> None:
    """Refuse names that look like secrets or are not valid variable names.

    Raises:
        UserError: naming the first one, and the alternative.
    """
    for name in map(str, names):
        if not _VARIABLE.fullmatch(name):
            raise UserError(f"{key}: {name!r} is not the name of a variable")
        if _is_secret(name):
            raise UserError(_refusal(f"{key}.{name}", name))


def refuse_secrets(text: str, key: str) -> None:
    """Refuse a text of the batch script that contains a secret; the message does not quote it.

    Raises:
        UserError: naming the key, and the alternative.
    """
    for name, value in [*_ASSIGNED.findall(text), *_OPTION.findall(text)]:
        if _is_secret(name.replace("-", "_")) and not re.match(r"""["']?[$`]|["']{2}|-""", value):
            raise UserError(_refusal(key, name))
    if SECRET_FORMS.search(text) or _LOGIN.search(text):
        raise UserError(_refusal(key, "what looks like a token"))


def texts(values: Mapping[str, Any], prefix: str) -> list[tuple[str, str]]:
    """Return every text of nested settings with its key; the arguments of one command are one text."""
    found = []
    for name, value in values.items():
        key = f"{prefix}.{name}"
        if isinstance(value, Mapping):
            found += texts(value, key)
        elif isinstance(value, list) and name in ("setup", "modules"):
            found += [(f"{key}[{index}]", str(each)) for index, each in enumerate(value)]
        elif isinstance(value, list):
            found.append((key, " ".join(map(str, value))))
        elif isinstance(value, str):
            found.append((key, value))
    return found


def _is_secret(name: str) -> bool:
    return bool(_NAME.search(name)) and not _WHERE_IT_IS.search(name)


def _refusal(key: str, what: str) -> str:
    variable = what if _VARIABLE.fullmatch(what) else "HF_TOKEN"
    return (
        f"{key}: a secret ({what}) would be in the batch script, which others can read: export it in the submitting shell, "
        f"whose environment jobs inherit, or read it from your own file by cluster.setup=['export {variable}=$(cat FILE)']"
    )
