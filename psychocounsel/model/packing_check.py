"""Check of a loaded model: if packed rows do not give the same results as separate sequences, the model is refused."""

from collections.abc import Callable

import numpy as np
import torch

from psychocounsel.data.batch import Batch, build_batch
from psychocounsel.data.group import Completion, Group
from psychocounsel.errors import UserError
from psychocounsel.model.packed import PackedModel

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.15}  # limit of the mean difference


def probe_groups(vocabulary: int, seed: int = 0) -> list[Group]:
    """Return two small groups of random tokens, with two and three completions."""
    rng = np.random.default_rng(seed)

    def ids(count: int) -> np.ndarray:
        return rng.integers(0, vocabulary, count, dtype=np.int32)

    return [
        Group("a", ids(7), [Completion(ids(5)), Completion(ids(3))]),
        Group("b", ids(4), [Completion(ids(6)), Completion(ids(2)), Completion(ids(4))]),
    ]


@torch.no_grad()
def check_packing(
    model: PackedModel, forward: Callable[[Batch], torch.Tensor], dtype: torch.dtype, device: torch.device, name: str
) -> None:
    """Compare packed log-probabilities, values or scores with those of plain, separate forward passes of the model.

    `forward` runs the packed pass in `dtype`; it is an engine if weights are partitioned.

    Raises:
        UserError: if they differ, or the model cannot run packed rows at all.
    """
    groups = probe_groups(model.text_config.vocab_size)
    batch = build_batch([groups], multiple=model.attention.multiple).to(device)
    try:
        packed = model.pieces(forward(batch), batch)
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise UserError(
            f"{name}: this architecture cannot run packed rows ({type(error).__name__}: {str(error)[:200]})"
        ) from error
    differences, expected = [], []
    for group, pieces in zip(groups, packed, strict=True):
        for completion, values in zip(group.completions, pieces, strict=True):
            with model.attention.plain(model.lm):
                alone = model.alone(*(_tensor(ids, device) for ids in (group.prompt_ids, completion.ids)))
            expected.append(alone.float().cpu().numpy())
            differences.append(np.abs(expected[-1] - values))
    # The scores of a new reward model hardly differ, so the difference is judged relative to their spread.
    scale = float(np.concatenate(expected).std()) + 1e-12 if model.scores else 1.0
    mean = float(np.concatenate(differences).mean()) / scale
    if not mean <= _TOLERANCE[dtype]:
        raise UserError(
            f"{name}: packed rows and separate sequences give results that differ by {mean:.3g}; "
            "training this architecture here would silently give wrong results"
        )


def _tensor(ids: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(ids.astype(np.int64)).to(device)
