"""psychocounsel: distributed preference learning for counselling models."""

from typing import Any

__version__ = "0.1.0"
__all__ = [
    "ClientTasks",
    "SessionEnv",
    "TurnByTurn",
]  # verifiers finds these by the id `psychocounsel` (environment.py)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from psychocounsel import environment

    return getattr(environment, name)
