"""A content hash of a local model, so that new weights under the same path count as another model."""

import os
from pathlib import Path

from psychocounsel.errors import UserError
from psychocounsel.model.shape import builtin_folder
from psychocounsel.storage.hashes import content_id

_READ = (".safetensors", ".bin", ".json", ".jinja", ".model", ".txt")  # weights, configuration, tokenizer, template


def content_of(model: str | None) -> str | None:
    """Return `sha256:...` of a model's files in a local folder or in the package, or None for any other model.

    The user's cache keeps the hash by size and time of the files, so large weights are read only once.

    Raises:
        UserError: if a file cannot be read.
    """
    if not model:
        return None
    folder = builtin_folder(model) if model.startswith("builtin:") else Path(model).expanduser()
    if not folder.is_dir():
        return None
    files = sorted(file for file in folder.iterdir() if file.suffix in _READ and file.is_file())
    cache = Path(os.environ.get("PSYCHOCOUNSEL_CACHE") or "~/.cache/psychocounsel").expanduser()
    try:
        return content_id(folder, files, str(cache))
    except OSError as error:
        raise UserError(f"{folder}: a file of this model cannot be read; check its permissions") from error
