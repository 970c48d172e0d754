"""How vLLM's engine tells that it goes on: it reports each of its steps to loggers of statistics, and this is one."""

from __future__ import annotations

from typing import Any


class EngineProgress:
    """Counts the steps in which an engine made tokens. It has the methods of vLLM's StatLoggerBase, which need no vLLM here."""

    def __init__(self) -> None:
        self.steps = 0

    def logger(self, config: Any, engine: int = 0) -> EngineProgress:
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, *more: Any, **named: Any) -> None:
        self.steps += iteration_stats is not None

    def log_engine_initialized(self) -> None:
        """vLLM asks each logger for it; there is nothing to say."""

    def log(self) -> None:
        """As above."""

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """As above."""
