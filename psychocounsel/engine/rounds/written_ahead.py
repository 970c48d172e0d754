"""Rounds written ahead, in a thread, while earlier rounds are scored and trained on."""

import threading
from collections.abc import Sequence
from pathlib import Path

from psychocounsel.data.group import Group, write_groups
from psychocounsel.rollout.base import Rollout, Shard, together

Batch = list[tuple[Path, Shard]]  # the shards written by one call, with their files


class WrittenAhead:
    """Writes the batches of the next `rounds` with the servers' current weights.

    Batches that are still missing when their round begins are written by `Shards.make`.
    """

    def __init__(self, rounds: Sequence[Sequence[Batch]], rollout: Rollout) -> None:
        self.failure: BaseException | None = None
        self._written = 0  # shards
        self._ends, self._next_is_there = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, args=(rounds, rollout), daemon=True)
        self._thread.start()

    def _run(self, rounds: Sequence[Sequence[Batch]], rollout: Rollout) -> None:
        try:
            for batches in rounds:
                for batch in filter(None, batches):
                    if self._ends.is_set():
                        return
                    prompts, sampling = together([shard for _, shard in batch])
                    groups = rollout.generate_alone(prompts, sampling)
                    if groups is None:
                        return
                    write_batch(batch, groups)
                    self._written += len(batch)
                self._next_is_there.set()
        except BaseException as error:
            self.failure = error
        finally:
            self._next_is_there.set()

    def join(self) -> int:
        """Return the number of shards written, once the next round is written and the batch in progress is done.

        Raises:
            BaseException: the error that ended the thread, unless it was a lost server.
        """
        self._next_is_there.wait()
        self._ends.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure
        return self._written


def write_batch(batch: Batch, groups: Sequence[Group]) -> None:
    """Write the replies of a batch to the files of its shards."""
    first = 0
    for file, (prompts, _) in batch:
        write_groups(file, groups[first : first + len(prompts)])
        first += len(prompts)
