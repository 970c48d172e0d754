"""The YAML header of a dataset card: the Hugging Face hub and `datasets` read licence, size and files from it."""

import re
from typing import Any

import yaml

from psychocounsel.annotation.card.markdown import plain
from psychocounsel.data.licences import identifier, strictest

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_MORE_SIZES = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))


def front_matter(
    name: str, licences: list[str | None], languages: list[str], splits: dict[str, str], rows: int, content: str
) -> list[str]:
    """Return the lines from `---` to `---`.

    `splits` maps each split to its file. All `licences` apply; None among them is an unknown one. `content` is a hash of the
    files: `datasets` caches by the folder's last name and this header, so without the hash it could load the rows of another
    dataset.
    """
    known = [identifier(licence) for licence in licences] or [None]
    licence = strictest(known)
    front: dict[str, Any] = {"license": licence}
    if licence == "other":
        front["license_name"] = "-and-".join(sorted({each or "unknown" for each in known}))
    codes = sorted({code for each in languages if (code := str(each).lower()) and re.fullmatch("[a-z]{2,3}", code)})
    front |= {"language": codes} if codes else {}
    front |= {
        "pretty_name": plain(name),
        "task_categories": ["text-generation"],
        "size_categories": [size_category(rows)],
    }
    front["tags"] = ["preference", "counselling", "psychocounsel"]
    files = [{"split": split, "path": file} for split, file in splits.items()]
    front |= {"configs": [{"config_name": "default", "description": content, "data_files": files}]} if files else {}
    text = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)
    return ["---", *text.rstrip().split("\n"), "---", ""]


def size_category(rows: int) -> str:
    """Return the hub's name for a number of rows."""
    return next((name for limit, name in (*_SIZES, *_MORE_SIZES) if rows < limit), "n>1B")
