"""`BatchAnswerer` computes Asks in batches, and ends after the batch that it computes."""

import threading
from collections.abc import Sequence

from psychocounsel.asking.batches import BatchAnswerer
from psychocounsel.asking.language_model import TEXT, Answer, Ask
from tests.support.asking import question

SIZE = 3


class Waiting(BatchAnswerer):
    """Answers a batch when `go` is set."""

    def __init__(self) -> None:
        self.began, self.go = threading.Event(), threading.Event()
        super().__init__(SIZE)

    def answer(self, asks: Sequence[Ask], seeds: Sequence[int]) -> list[Answer]:
        self.began.set()
        assert self.go.wait(20)
        return [Answer(TEXT, ask.speech) for ask in asks]


def test_closing_ends_after_the_current_batch() -> None:
    """Otherwise Ctrl-C would wait for the next batch as well, which may take minutes."""
    model = Waiting()
    futures = [model.submit(question(number), 0) for number in range(2 * SIZE)]
    assert model.began.wait(20)
    closing = threading.Thread(target=model.close)
    closing.start()
    closing.join(0.5)  # by then it waits for the batch
    model.go.set()
    closing.join(20)
    assert [future.result(0).text for future in futures[:SIZE]] == [question(number).speech for number in range(SIZE)]
    assert all(future.cancelled() for future in futures[SIZE:])
