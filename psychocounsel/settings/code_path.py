"""Where the user's own code lies: algorithms, rewards, clusters, callbacks outside the package."""

import sys
from collections.abc import Iterable


def add_code_path(folders: Iterable[str]) -> None:
    """Let Python find modules in `folders` (`code_path` of a configuration), after all that is installed."""
    sys.path.extend(folder for folder in folders if folder not in sys.path)
