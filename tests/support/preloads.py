"""Imports that tests' commands and their ranks share: the processes from which they are forked make them once.

Commands import no torch, so the process that forks them does not import it either.
"""

import contextlib
import gc
import pkgutil
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import psychocounsel

_RUN_ON_IMPORT = ("psychocounsel.worker", "psychocounsel.cluster.rank", "psychocounsel.engine.preload")
_ONLY_RANKS = ("torch", "transformers", "deepspeed", "datasets")
_OTHERS = (  # imported inside functions
    *("pandas", "pyarrow.dataset", "scipy.optimize", "scipy.stats", "httpcore", "uvicorn", "uvicorn.lifespan.on"),
    *("uvicorn.loops.auto", "uvicorn.protocols.http.auto", "uvicorn.protocols.websockets.auto"),
    *(
        "sklearn.cluster",
        "sklearn.decomposition",
        "sklearn.feature_extraction.text",
        "sklearn.linear_model",
        "sklearn.svm",
    ),
)


def _load(names: Iterator[str]) -> None:
    from psychocounsel.counsel import traits

    for name in names:
        with contextlib.suppress(ImportError):  # of an extra that is not installed, or of what only ranks import
            import_module(name)
    for probabilities in (False, True):
        traits._identifier(probabilities)


def _names(package: ModuleType) -> Iterator[str]:
    """Yield the names of all modules of a package, except those that do something when they are imported."""
    yield from _OTHERS
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name not in _RUN_ON_IMPORT and not module.name.endswith("__main__"):
            yield module.name


def load_for_commands() -> None:
    """Load everything that can be imported without torch, and the files of `conf/` that every command composes."""
    from tests.support.composed import checked
    from tests.support.quick_composing import compose_quickly

    sys.meta_path.insert(0, _Refusing)
    _load(_names(psychocounsel))
    sys.meta_path.remove(_Refusing)
    compose_quickly()
    checked(name="train")
    checked("evaluation=health", "model.path=builtin:tiny", name="evaluate")
    gc.freeze()


class _Refusing:
    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in _ONLY_RANKS:
            raise ImportError(f"{name}: only ranks import it")


def load_for_ranks() -> None:
    """Load every module."""
    _load(_names(psychocounsel))
    gc.freeze()
