"""Log-probabilities of given tokens, a chunk of rows at a time: full logits never exist, forward or backward."""

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint


def token_logprobs(
    hidden: torch.Tensor, targets: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor], chunk: int
) -> torch.Tensor:
    """log p(targets | hidden), float32[N], from hidden states [N, H] and `logits_of`: [n, H] -> [n, vocabulary].

    Each chunk of `chunk` rows is recomputed in backward, so memory holds chunk x vocabulary logits at most.
    """
    pieces = []
    for start in range(0, len(targets), chunk):
        part = (hidden[start : start + chunk], targets[start : start + chunk], logits_of)
        if torch.is_grad_enabled() and len(targets) > chunk:
            pieces.append(checkpoint(_chunk_logprobs, *part, use_reentrant=False))
        else:
            pieces.append(_chunk_logprobs(*part))
    return torch.cat(pieces)


def _chunk_logprobs(
    hidden: torch.Tensor, targets: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    logits = logits_of(hidden).float()
    return logits.gather(1, targets[:, None]).squeeze(1) - logits.logsumexp(1)
