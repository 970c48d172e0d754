"""`BatchAnswerer` collects Asks and passes them to a local model in batches, in its own thread."""

import queue
import threading
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from psychocounsel.asking.language_model import Answer, Answerer, Ask

_FILLING = 0.2  # seconds to wait for the next Ask before an incomplete batch starts

_Job = tuple[Ask, int, Future[Answer]]


class BatchAnswerer(Answerer):
    """Base class of answerers that compute in this process. A subclass must define `answer`.

    `answer` receives up to `batch_size` Asks at once. Twice as many may be submitted, so that the next batch is ready when one
    ends.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.slots = batch_size, 2 * batch_size
        self._closing = False
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    @abstractmethod
    def answer(self, asks: Sequence[Ask], seeds: Sequence[int]) -> list[Answer]:
        """Return the answers to `asks`, in order. Each answer depends on its own seed, not on the other Asks in the batch."""

    def submit(self, ask: Ask, seed: int) -> Future[Answer]:
        future: Future[Answer] = Future()
        self._jobs.put((ask, seed, future))
        return future

    def close(self) -> None:
        """Stop after the current batch; the Asks that wait for the next one are cancelled."""
        self._closing = True
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            try:
                answers = self.answer([ask for ask, _, _ in batch], [seed for _, seed, _ in batch])
                for (_, _, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)
            except BaseException as error:  # raised in the threads that wait for the answers
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _next(self) -> list[_Job] | None:
        """Wait for Asks and return the next batch, or None after `close`."""
        batch: list[_Job] = []
        while self._closing or len(batch) < self.batch_size:  # when closing, until the mark None, which is the last
            try:
                job = self._jobs.get(block=not batch, timeout=_FILLING if batch else None)
            except queue.Empty:
                break
            if job is None:
                for _, _, future in batch:
                    future.cancel()
                return None
            if not job[2].cancelled():
                batch.append(job)
        return batch
