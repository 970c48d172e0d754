"""Opening lines of a run: the size of its training and held-out data."""

from collections.abc import Iterator

from psychocounsel.data.dataset import Dataset

FEW_PROMPTS = 30  # held-out prompts: with fewer, bootstrap intervals are too narrow
_UNITS = {"pairs": "pair", "completions": "row", "labelled": "row", "prompts": "prompt"}


def opening_lines(data: Dataset, unit: str, steps: int, batch: int) -> Iterator[str]:
    """Yield `718 train / 174 held-out pairs (71 prompts), 23 steps of 32`, and a warning if few prompts are held out.

    `unit` is the kind of data that the algorithm needs (`Needs.data`), `batch` the groups of a step.
    """
    prompts = len({group.prompt_ids.tobytes() for group in data.held_out})
    word = _UNITS[unit]
    of = "" if word == "prompt" else f" ({_counted(prompts, 'prompt')})"
    yield (
        f"{len(data.train):,} train / {_counted(len(data.held_out), f'held-out {word}')}{of}, "
        f"{_counted(steps, 'step')} of {batch:,}"
    )
    if data.held_out and prompts < FEW_PROMPTS:
        yield (
            f"warning: only {_counted(prompts, 'held-out prompt')}: below {FEW_PROMPTS}, held-out figures are mostly "
            "noise, and so is the choice of the best model; give more rows, data.dev_fraction or data.eval_path"
        )


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}" if number == 1 else f"{number:,} {word}s"
