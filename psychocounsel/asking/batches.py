"""`BatchAnswerer` collects Asks and hands them to a local model in batches, in a thread of its own."""

import queue
import threading
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from psychocounsel.asking.language_model import Answer, Answerer, Ask

_FILLING = 0.2  # seconds in which the next Ask of a batch must come

_Job = tuple[Ask, int, "Future[Answer]"]


class BatchAnswerer(Answerer):
    """Base of answerers that compute in this process. A subclass must define `answer`.

    `batch_size` Asks go to `answer` at once. Twice as many may be submitted, so that the next batch waits when one ends.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.slots = batch_size, 2 * batch_size
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)
        self._thread.start()

    @abstractmethod
    def answer(self, asks: Sequence[Ask], seeds: Sequence[int]) -> list[Answer]:
        """The answers to `asks`, in order; each with the random numbers of its seed, whatever else is in the batch."""

    def submit(self, ask: Ask, seed: int) -> "Future[Answer]":
        future: Future[Answer] = Future()
        self._jobs.put((ask, seed, future))
        return future

    def close(self) -> None:
        """End after the batch that is being answered; what waits is not answered."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            try:
                answers = self.answer([ask for ask, _, _ in batch], [seed for _, seed, _ in batch])
                for (_, _, future), answer in zip(batch, answers, strict=True):
                    future.set_result(answer)
            except BaseException as error:  # whoever waits for the answers is told
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _next(self) -> list[_Job] | None:
        """The next batch, once there is anything to do; None at the end."""
        batch: list[_Job] = []
        while len(batch) < self.batch_size:
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
