"""Number of floating-point operations that training on a group needs, for any implementation."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from psychocounsel.data.group import Group
from psychocounsel.model.attention import sliding_window


class TrainingFlops:
    """Counts the operations that training on a group needs, after PaLM (arXiv 2204.02311, appendix B).

    Only useful work is counted: a shared prompt once, the output layer only at completion tokens, nothing that is
    recomputed. Per token, a weight of a linear layer costs 2 operations forward, 2 backward towards its input, and 2
    more for its own gradient if it is trained. Each pair of a token and a token that it sees costs 4 x heads x head
    size forward, and twice that backward.
    """

    def __init__(self, lm: Any) -> None:
        config = lm.config.get_text_config()
        output = lm.get_output_embeddings()
        linear = [part for part in lm.modules() if isinstance(part, nn.Linear) and part is not output]
        self.per_token = sum(map(_per_token, linear))
        self.per_completion_token = _per_token(output) if isinstance(output, nn.Linear) else 0
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        kinds = getattr(config, "layer_types", None)
        window = sliding_window(config)
        kinds = kinds or ["sliding_attention" if window else "full_attention"] * config.num_hidden_layers
        self.per_pair = 12 * heads * size
        self.windows = [window if kind == "sliding_attention" else None for kind in kinds]

    def of(self, groups: Sequence[Group]) -> int:
        tokens = sum(group.tokens for group in groups)
        completion_tokens = sum(group.completion_tokens for group in groups)
        pairs = {window: sum(_pairs(group, window) for group in groups) for window in set(self.windows)}
        attention = self.per_pair * sum(pairs[window] for window in self.windows)
        return tokens * self.per_token + completion_tokens * self.per_completion_token + attention


def _per_token(layer: nn.Linear) -> int:
    trained = layer.weight.requires_grad
    return (6 if trained else 4) * layer.in_features * layer.out_features


def _pairs(group: Group, window: int | None) -> int:
    """Return the number of pairs of a token and a token that it sees."""
    prompt = len(group.prompt_ids)
    whole = [_causal(prompt + len(completion.ids), window) for completion in group.completions]
    return sum(whole) - (len(whole) - 1) * _causal(prompt, window)


def _causal(length: int, window: int | None) -> int:
    near = min(length, window or length)
    return near * (near + 1) // 2 + (length - near) * near
