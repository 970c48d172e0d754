"""psychocounsel: distributed preference learning for counselling models."""

from typing import Any

__version__ = "0.1.0"
# verifiers finds its classes by the id `psychocounsel`; only then is the extra `environment` imported.
__all__ = ["ClientTasks", "SessionEnv", "TurnByTurn"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from psychocounsel import environment

    return getattr(environment, name)
