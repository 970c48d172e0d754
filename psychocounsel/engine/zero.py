"""DeepSpeed engines, one per trained model, for ZeRO stages 0 to 3."""

import io
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from psychocounsel.algo.base import Algorithm
from psychocounsel.model.cpu import Copies
from psychocounsel.model.gradients import add_in_place
from psychocounsel.model.packed import PackedModel


def deepspeed_config(
    config: DictConfig, algorithm: Algorithm, dtype: torch.dtype, on_gpu: bool = False
) -> dict[str, Any]:
    """Return the DeepSpeed configuration of an engine; the loop does accumulation, schedule and loss scaling itself.

    `on_gpu`: stages 2 and 3 reduce the gradients of one bucket while the backward pass computes those of the next.
    """
    zero = config.zero
    optimization: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": on_gpu and zero.stage >= 2,  # at stage 1 gradients are reduced once a step, at its end
        "contiguous_gradients": True,
        "reduce_bucket_size": zero.bucket_elements,
        "allgather_bucket_size": zero.bucket_elements,
        "stage3_param_persistence_threshold": zero.persistence_elements,
        "zero_hpz_partition_size": zero.hpz,
    }
    if zero.offload_optimizer:
        optimization["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if zero.offload_parameters:
        optimization["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # Infinity disables clipping, but DeepSpeed still computes the norm.
        "gradient_clipping": algorithm.max_grad_norm or float("inf"),
        # At stage 0 `MasterAdamW` holds the float32 master weights, because DeepSpeed has none there.
        "bf16": {"enabled": dtype == torch.bfloat16 and zero.stage > 0},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": zero.reduce_dtype,
        "zero_optimization": optimization,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own optimizer would be compiled at first use
        "steps_per_print": None,
    }


class Engine:
    """A DeepSpeed engine that also gives the gradient norm at every stage, and whole parameters.

    `at_once`: number of micro-batches that it computes at once, 1 on a GPU (`model.cpu.micro_batches_at_once`).
    """

    def __init__(
        self, module: PackedModel, config: DictConfig, algorithm: Algorithm, dtype: torch.dtype, at_once: int = 1
    ) -> None:
        import deepspeed

        optimizer = (torch.optim.AdamW if config.zero.stage else MasterAdamW)(
            _parameter_groups(module, algorithm),
            lr=algorithm.lr,
            betas=(algorithm.adam_beta1, algorithm.adam_beta2),
            eps=algorithm.adam_eps,
            fused=True,
        )
        self.module, self.dtype, self.at_once = module, dtype, at_once
        self.copies = Copies(module, at_once)
        frozen = any(not parameter.requires_grad for parameter in module.parameters())
        on_gpu = deepspeed.accelerator.get_accelerator().device_name() == "cuda"
        settings = deepspeed_config(config, algorithm, dtype, on_gpu)
        # Its bf16 optimizer prints memory at stage 1, and no setting prevents that.
        with redirect_stdout(io.StringIO()):
            self.deepspeed, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
        if config.zero.stage == 0 and not frozen and self.deepspeed.device.type == "cpu":
            for model in (module, *self.copies.all):
                add_in_place(model)
        self.norm: float | None = None
        self._max_norm = settings["gradient_clipping"]
        self.deepspeed.clip_fp32_gradients = self._clip  # ZeRO-0 in fp32 clips without reporting the norm

    def __call__(self, batch: Any, **outputs: bool) -> Any:
        """Return the module's output for a batch; `outputs` are keyword arguments of its `forward`."""
        return (self.copies.mine() or self.deepspeed)(batch, **outputs)

    def train(self, mode: bool) -> None:
        self.deepspeed.train(mode)
        for module in self.copies.all:
            module.train(mode)

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate gradients; `loss` is this rank's share of the global batch's loss."""
        if self.copies.mine():
            loss.backward()
        else:  # DeepSpeed averages over ranks, but the shares must be summed
            self.deepspeed.backward(loss * self.deepspeed.dp_world_size, scale_wrt_gas=False)

    def rehearse_step(self) -> None:
        """Allocate the optimizer's state, before training, by a step with zero gradients and zero learning rate."""
        steps = {id(state): state["step"].clone() for state in self._optimizer_states() if "step" in state}
        self.step(0.0)
        for state in self._optimizer_states():
            state["step"].copy_(steps.get(id(state), torch.zeros_like(state["step"])))

    def _optimizer_states(self) -> list[dict[str, Any]]:
        wrapper = self.deepspeed.optimizer
        return list(getattr(wrapper, "optimizer", wrapper).state.values())

    def step(self, lr: float) -> float:
        """Clip the gradients, update the weights and clear the gradients; return the global gradient norm before clipping."""
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        self.copies.move_gradients()
        self.norm = None
        self.deepspeed.step()
        norm = self.norm if self.norm is not None else self.deepspeed.get_global_grad_norm()
        return float(norm)

    def _clip(self) -> None:
        self.norm = float(torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._max_norm))

    def whole_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the name and full value of each trained parameter of the inner model, without the module's own value head.

        Parameters are gathered one at a time; all ranks must iterate together.
        """
        import deepspeed

        for name, parameter in self.module.lm.named_parameters():
            if not parameter.requires_grad:
                continue
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                yield name, parameter.detach()


def _parameter_groups(module: nn.Module, algorithm: Algorithm) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups: weight decay for matrices alone, and a learning rate of its own for a value head."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_matrix = len(getattr(parameter, "ds_shape", parameter.shape)) > 1
            alike = (algorithm.weight_decay if is_matrix else 0.0, name.startswith("value_head."))
            groups.setdefault(alike, []).append(parameter)
    return [
        {"params": members, "weight_decay": decay, **({"lr_factor": algorithm.lr_factor("critic")} if is_head else {})}
        for (decay, is_head), members in groups.items()
    ]


class MasterAdamW(torch.optim.AdamW):
    """AdamW for a model that computes in bfloat16: gradients add up in float32, and updates change float32 masters.

    Updates smaller than 1/256 of a bfloat16 weight would be lost to rounding; the masters keep them. After each step the
    weights equal their masters, rounded. A float32 weight is its own master. `groups` are AdamW's groups of weights;
    `state` and `param_groups` hold the masters instead.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], **settings: Any) -> None:
        groups = list(groups)
        self._masters = {weight: _master(weight) for group in groups for weight in group["params"]}
        masters = [group | {"params": [self._masters[weight] for weight in group["params"]]} for group in groups]
        super().__init__(masters, **settings)

    def master(self, weight: nn.Parameter) -> torch.Tensor:
        return self._masters[weight]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Update the masters by the gradients of the weights, and round them into the weights."""
        for weight, master in self._masters.items():
            master.grad = weight.grad
        super().step(closure)
        self.round()
        for weight, master in self._masters.items():
            if master is not weight:
                master.grad = None

    @torch.no_grad()
    def round(self) -> None:
        """Set the weights to their masters, rounded."""
        for weight, master in self._masters.items():
            if master is not weight:
                weight.copy_(master)


def _master(weight: nn.Parameter) -> torch.Tensor:
    if weight.dtype == torch.float32:
        return weight
    weight.grad_dtype = torch.float32
    return weight.detach().float()
