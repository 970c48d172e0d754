"""Content security policy: the page may run its own scripts and styles, named by their hashes, and load nothing else."""

import base64
import hashlib
import json
from collections.abc import Sequence

from markupsafe import Markup

_SIGNS = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


def content_policy(scripts: Sequence[str], styles: Sequence[str], served: bool) -> str:
    """Return a Content-Security-Policy. A served page may connect to its own server. A page opened as a file may not connect.

    Images are allowed as `data:` and `blob:`, because the page makes one when a reader saves a chart.
    """
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(map(_hash, scripts)),
        "style-src": " ".join(map(_hash, styles)),
        "img-src": "data: blob:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    if served:
        rules["connect-src"] = "'self'"
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def json_for_script(value: object) -> Markup:
    """Return JSON for a `<script type="application/json">`, escaped so that no character can end the element."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return Markup("".join(_SIGNS.get(sign, sign) for sign in text) if _SIGNS.keys() & set(text) else text)
