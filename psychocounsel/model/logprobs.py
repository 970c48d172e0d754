"""Log-probabilities of given tokens, a piece at a time: full logits never exist, forward or backward."""

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    hidden: torch.Tensor, targets: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor], chunks: int
) -> torch.Tensor:
    """log p(targets | hidden), float32[N], from hidden states [N, H] and `logits_of`: [n, H] -> [n, vocabulary].

    The rows are cut into `chunks` pieces, each recomputed in backward: memory holds one piece's logits at most.
    """
    pieces = []
    for part in zip(hidden.tensor_split(chunks), targets.tensor_split(chunks), strict=True):
        if torch.is_grad_enabled() and chunks > 1:
            pieces.append(checkpoint(_chunk_logprobs, *part, logits_of, use_reentrant=False))
        else:
            pieces.append(_chunk_logprobs(*part, logits_of))
    return torch.cat(pieces)


def _chunk_logprobs(
    hidden: torch.Tensor, targets: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    logits = logits_of(hidden).float()
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)
