"""Command that rewrites the assertions of all tests as pytest does, once for all worker processes of a session.

Otherwise each worker would rewrite every file itself, which takes ten seconds: the workers start at the same time, so none
finds the files of another, and if PYTHONDONTWRITEBYTECODE is set, pytest writes no files. In both cases pytest reads existing
files if their source has not changed.
"""

from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

from _pytest.assertion import AssertionState, rewrite
from _pytest.config import Config, get_config

TESTS = Path(__file__).parent.parent


@cache
def _config() -> Config:
    return get_config()


def keep_rewritten(file: Path) -> None:
    """Write the rewritten code of a test file to pytest's cache, unless the cache has it already."""
    folder = rewrite.get_cache_dir(file)
    kept = folder / f"{file.stem}{rewrite.PYC_TAIL}"
    if rewrite.try_makedirs(folder) and rewrite._read_pyc(file, kept) is None:
        source_hash, code = rewrite._rewrite_test(file, _config())
        rewrite._write_pyc(AssertionState(_config(), "rewrite"), code, source_hash, kept)


if __name__ == "__main__":
    with ProcessPoolExecutor() as processes:
        list(processes.map(keep_rewritten, [*TESTS.rglob("test_*.py"), *TESTS.rglob("conftest.py")], chunksize=8))
