"""Progress of a vLLM engine: a statistics logger that counts the steps which the engine reports."""

from __future__ import annotations

from typing import Any


class EngineProgress:
    """Counts engine steps that made tokens. It has the methods of vLLM's StatLoggerBase, but needs no vLLM installed."""

    def __init__(self) -> None:
        self.steps = 0

    def logger(self, config: Any, engine: int = 0) -> Any:
        """Return this object: vLLM accepts any object with the methods of a logger, but its types ask for a subclass."""
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **named: Any) -> None:
        self.steps += iteration_stats is not None

    def log_engine_initialized(self) -> None:
        """Required by vLLM; does nothing."""

    def log(self) -> None:
        """Required by vLLM; does nothing."""

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """Required by vLLM; does nothing."""
