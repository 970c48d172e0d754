"""Import path of the user's own code: algorithms, rewards, clusters and callbacks outside the package."""

import sys
from collections.abc import Iterable, Sequence


def add_code_path(folders: Iterable[str]) -> None:
    """Add `folders` (`code_path` of a configuration) to the import path, after all installed packages."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)


def config_folders(code_path: Sequence[str]) -> list[str]:
    """Return the folders of `--config-dir`: `code_path` holds each with its parent, and then the working directory."""
    return list(code_path)[:-1:2]
