"""The output layer: outputs in float32, and log-probabilities of given tokens by blocks of the vocabulary."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from psychocounsel.errors import UserError
from psychocounsel.model.cpu import PRODUCT_ROWS, Linear, outer_product, product
from psychocounsel.model.gradients import gradient_of

# The last layer of a model (logits, score or value), which computes in float32 whatever the dtype of the model.
#
# A logit of 20 rounded to bfloat16 is wrong by up to 0.06, and a reply has hundreds of them.


class Head(Linear):
    """A linear layer with float32 outputs from states and weights in the model's dtype."""

    in_float32 = True

    @classmethod
    def adopt(cls, module: nn.Module) -> None:
        """Convert the plain linear layers in `module`, in place."""
        for layer in module.modules():
            if type(layer) in (nn.Linear, Linear):
                layer.__class__ = cls

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return float32[..., outputs] from [..., H]."""
        if self.weight.dtype == torch.float32 or self.reordered is not None:
            return super().forward(hidden.float())
        if hidden.is_cuda and not torch.is_grad_enabled():
            return wide_product(hidden.flatten(0, -2), self.weight, self.bias).unflatten(0, hidden.shape[:-1])
        return nn.functional.linear(hidden.float(), self.weight.float(), _wide(self.bias))


def wide_product(left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return left @ right.T + bias, float32[N, M], from [N, K] and [M, K] in the same dtype; it has no gradient of its own.

    Products of bfloat16 numbers are exact in float32, and so are summed without a rounding to bfloat16.
    """
    if not left.is_cuda or left.dtype == torch.float32:
        return product(left.float(), right.float(), _wide(bias))
    result: Any = torch.mm(left, right.t(), out_dtype=torch.float32)
    return result if bias is None else result.add_(bias)


def _wide(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.float()


# Log-probabilities of given tokens, one block of the vocabulary at a time: full logits never exist, forward or
# backward.

# Columns of a block. A fixed number keeps a reply's log-probability the same bits in every micro-batch.
_COLUMNS = {"cpu": 1024, "cuda": 4096}
_PIECE_BYTES = {"cpu": 1 << 23, "cuda": 1 << 28}  # logits computed at once; on CPU as many as fit into its cache
_KEPT_BYTES = {"cpu": 1 << 26, "cuda": 0}  # logits kept for backward; the rest is recomputed

_Kept = tuple[torch.Tensor, torch.Tensor]  # exp(logits - highest) [N, block], and each token's highest logit [N, 1]


class OutputLayer(Head):
    """A language model's output layer that, given targets, returns their log-probabilities instead of logits.

    `OutputLayer.of` converts a model's own layer, which stays the same module with the same parameters. Engines that
    gather partitioned weights at each call of a module therefore gather them only once for all blocks.
    """

    adds_in_place = False

    @classmethod
    def of(cls, layer: Any) -> "OutputLayer":
        """Convert a linear layer to an OutputLayer, in place, and return it.

        Raises:
            UserError: for a layer of another class.
        """
        if type(layer) in (nn.Linear, Linear, Head):
            layer.__class__ = cls
        if not isinstance(layer, cls):
            raise UserError(
                f"model.path: the model's output layer is a {type(layer).__name__}, but log-probabilities can be computed only "
                "from a plain linear layer (torch.nn.Linear); use another model"
            )
        return layer

    def forward(
        self,
        hidden: torch.Tensor,
        targets: torch.Tensor | None = None,
        temperature: float = 1.0,
        softcap: float | None = None,
        entropy: bool = False,
    ) -> Any:
        """Return log p(targets | hidden), float32[N], from [N, H] and int64[N]; without targets the logits, float32[..., V].

        Logits are capped as `softcap * tanh(logits / softcap)` and divided by `temperature`. With `entropy`, a pair of
        float32[N] is returned: the log-probabilities, and the entropy of p(. | hidden) [nats].
        """
        if targets is None:
            return super().forward(hidden)
        kind = hidden.device.type
        room = _KEPT_BYTES[kind] if torch.is_grad_enabled() else 0
        how = _How(temperature, softcap, room, self.adds_in_place, entropy)
        count = len(targets)
        if kind == "cpu" and (missing := -count % PRODUCT_ROWS):
            hidden, targets = nn.functional.pad(hidden, (0, 0, 0, missing)), nn.functional.pad(targets, (0, missing))
        logprobs, spread = _TokenLogprobs.apply(hidden, self.weight, self.bias, targets, how)
        return (logprobs[:count], spread[:count]) if entropy else logprobs[:count]


@dataclass(frozen=True)
class _How:
    """Settings of the logits: temperature and cap, and how many bytes are kept for backward (`room`).

    `adds_in_place`: backward itself adds the weight's gradient to `.grad`. `entropy`: the entropy is wanted, too.
    """

    temperature: float
    softcap: float | None
    room: int
    adds_in_place: bool
    entropy: bool


class _TokenLogprobs(torch.autograd.Function):
    """Computes log-probabilities block by block; only each token's log normaliser is kept, and backward recomputes logits.

    While there is room, exp(logits - highest) of a block are kept, too, and backward need not recompute them.

    With logits z, p = softmax(z) and the entropy H = log sum exp(z) - sum p z:
    d log p_target / dz_j = [j = target] - p_j and dH / dz_j = -p_j (log p_j + H).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        how: _How,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        layer, room = _Logits(hidden, weight, bias, targets, how), how.room
        softmax = _Softmax(hidden.new_full(targets.shape, -torch.inf, dtype=torch.float32), how.entropy)
        chosen = torch.zeros_like(softmax.normaliser)
        kept: list[_Kept] = []
        for block in layer.blocks():
            logits = layer.logits(block)
            inside, column = layer.target(block)
            chosen += torch.where(inside, logits.gather(1, column).squeeze(1), 0.0)
            highest = logits.amax(1, keepdim=True)
            softmax.add(logits, highest)
            if (room := room - logits.nbytes) >= 0 and not how.softcap:
                kept.append((logits, highest))  # `logits` now hold exp(logits - highest)
        ctx.save_for_backward(hidden, weight, bias, targets, softmax.normaliser, softmax.entropy)
        ctx.how, ctx.kept = how, kept
        ctx.leaf = weight if how.adds_in_place else None
        ctx.set_materialize_grads(False)
        return chosen - softmax.normaliser, softmax.entropy

    @staticmethod
    def backward(
        ctx: Any, grad: torch.Tensor | None, entropy_grad: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets, normaliser, entropy = ctx.saved_tensors
        layer = _Logits(hidden, weight, bias, targets, ctx.how)
        grad = torch.zeros_like(normaliser) if grad is None else grad
        both = None
        if entropy_grad is not None:  # `excess` then already contains both gradients
            both, grad = _Both(grad, entropy_grad, entropy), torch.ones_like(grad)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        to_hidden = torch.zeros(hidden.shape, dtype=torch.float32, device=hidden.device) if wants_hidden else None
        own = wants_weight and ctx.leaf is None
        to_weight = torch.empty_like(weight) if own else gradient_of(ctx.leaf) if wants_weight else None
        to_bias = torch.empty_like(bias) if wants_bias else None
        scaled = (hidden * -grad[:, None]).to(weight.dtype)
        kept = ctx.kept[::-1]
        ctx.kept = None
        for block in layer.blocks():
            excess = layer.excess(block, normaliser, kept.pop() if kept else None, both)
            if to_hidden is not None:  # in float32, because sums of the blocks' bfloat16 products would lose precision
                to_hidden += product(excess, weight[block].t())
            if to_weight is not None:
                part = outer_product(excess, scaled)
                to_weight[block].copy_(part) if own else to_weight[block].add_(part)
            if to_bias is not None:
                to_bias[block] = -grad.to(excess.dtype) @ excess
        if to_hidden is not None:
            to_hidden = (to_hidden * -grad[:, None]).to(hidden.dtype)
        return to_hidden, to_weight if own else None, to_bias, None, None


class _Softmax:
    """The log normaliser, float32[N], of the logits seen so far, and, if wanted, the entropy of their softmax."""

    def __init__(self, normaliser: torch.Tensor, entropy: bool) -> None:
        self.normaliser = normaliser
        self.entropy = torch.zeros_like(normaliser) if entropy else None

    def add(self, logits: torch.Tensor, highest: torch.Tensor) -> None:
        """Add a block of logits [N, block], which are overwritten by exp(logits - highest)."""
        logits.sub_(highest)
        shifted = None if self.entropy is None else logits.clone()
        mass = logits.exp_().sum(1)
        here = mass.log().add_(highest[:, 0])
        before, self.normaliser = self.normaliser, torch.logaddexp(self.normaliser, here)
        if self.entropy is not None and shifted is not None:
            inside = mass.log() - shifted.mul_(logits).sum(1) / mass
            old, new = (before - self.normaliser).exp(), (here - self.normaliser).exp()
            # Entropy of a mixture: the parts' entropies by their shares, plus the entropy of the shares. Large terms
            # would otherwise cancel.
            self.entropy = old * self.entropy - torch.xlogy(old, old) + new * inside - torch.xlogy(new, new)


@dataclass(frozen=True)
class _Both:
    """Gradients of log-probabilities and entropies, and the entropies, float32[N] each."""

    grad: torch.Tensor
    entropy_grad: torch.Tensor
    entropy: torch.Tensor


class _Logits:
    """Logits of the output layer in float32, and their gradients in the dtype of its weight, for a block of the vocabulary."""

    def __init__(
        self,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        how: _How,
    ) -> None:
        self.hidden, self.weight, self.bias, self.targets = hidden, weight, bias, targets
        self.temperature, self.softcap = how.temperature, how.softcap

    def blocks(self) -> list[slice]:
        """Return blocks of `_COLUMNS` columns of the vocabulary, or of fewer if their logits would exceed `_PIECE_BYTES`."""
        kind = self.hidden.device.type
        size = max(1, min(_COLUMNS[kind], _PIECE_BYTES[kind] // (4 * len(self.hidden))))
        return [slice(start, min(start + size, len(self.weight))) for start in range(0, len(self.weight), size)]

    def target(self, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return bool[N], True if the token's target is in the block, and its column there, int64[N, 1] (any column if not)."""
        column = self.targets - block.start
        inside = (column >= 0) & (column < block.stop - block.start)
        return inside, column.clamp(0, block.stop - block.start - 1)[:, None]

    def logits(self, block: slice) -> torch.Tensor:
        """Return the logits of a block, float32[N, block]."""
        bias = None if self.bias is None else self.bias[block]
        logits = wide_product(self.hidden, self.weight[block], bias)
        if self.softcap:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits.div_(self.temperature) if self.temperature != 1.0 else logits

    def excess(
        self, block: slice, normaliser: torch.Tensor, kept: _Kept | None, both: _Both | None = None
    ) -> torch.Tensor:
        """Return -d log p_target / d(output of the layer), [N, block] in the weight's dtype: p, minus 1 at the target.

        With `both` gradients: -d(grad log p_target + entropy_grad H) / d(output). `kept` is overwritten.
        """
        slope = None
        if kept is not None:
            powers, highest = kept
            excess = powers.mul_((highest - normaliser[:, None]).exp_())
        else:
            logits = self.logits(block)
            if self.softcap:
                slope = 1 - (logits * (self.temperature / self.softcap)).square_()
            excess = logits.sub_(normaliser[:, None]).exp_()
        spread = None if both is None else torch.xlogy(excess, excess).addcmul_(excess, both.entropy[:, None])
        inside, column = self.target(block)
        excess.scatter_(1, column, excess.gather(1, column) - inside[:, None].float())
        if both is not None and spread is not None:
            excess.mul_(both.grad[:, None]).addcmul_(spread, both.entropy_grad[:, None])
        if slope is not None:
            excess *= slope
        if self.temperature != 1.0:
            excess /= self.temperature
        return excess.to(self.weight.dtype)
