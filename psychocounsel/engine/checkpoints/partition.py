"""State of a DeepSpeed engine as ranges of its parameters, the same for every ZeRO stage and number of processes.

DeepSpeed stores float32 weights and AdamW's moments in three layouts: per parameter (stage 0), in flat groups that are
cut among the ranks at any element (stages 1 and 2), or per parameter, each cut among the ranks (stage 3). A range of
one flattened parameter can be read from and written to all of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch

from psychocounsel.errors import UserError

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Held:
    """Elements `start` to `stop` of the parameter `name`, as this rank's optimizer holds them.

    They are in the optimizer's own tensor `owner`, flat, from element `offset` on.
    """

    name: str
    start: int
    stop: int
    owner: torch.Tensor
    offset: int

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """Return a view of this range's elements in `whole`, which has the layout of `owner`."""
        return whole.detach().view(-1).narrow(0, self.offset, self.stop - self.start)


class Partition:
    """This rank's part of the state of DeepSpeed's `engine`, whose trained parameters are those of `module`."""

    def __init__(self, engine: Any, module: torch.nn.Module) -> None:
        self.stage = int(engine.zero_optimization_stage())
        self.wrapper = engine.optimizer
        self.optimizer: torch.optim.Optimizer = getattr(self.wrapper, "optimizer", self.wrapper)
        self.parameters = {name: each for name, each in module.named_parameters() if each.requires_grad}
        self._names = {id(each): name for name, each in self.parameters.items()}
        self.held = list({0: self._whole, 1: self._of_groups, 2: self._of_groups, 3: self._of_parameters}[self.stage]())

    def shape(self, name: str) -> list[int]:
        parameter = self.parameters[name]
        return list(getattr(parameter, "ds_shape", parameter.shape))

    def _whole(self) -> Iterator[Held]:
        for name, parameter in self.parameters.items():
            yield Held(name, 0, parameter.numel(), self.wrapper.master(parameter), 0)

    def _of_groups(self) -> Iterator[Held]:
        zero = self.wrapper
        if hasattr(zero, "fp32_groups_flat_partition"):  # DeepSpeed has a separate optimizer for stage 1 in bfloat16
            groups, owners = zero.bf16_groups, zero.fp32_groups_flat_partition
            places = [list(accumulate([each.numel() for each in members], initial=0))[:-1] for members in groups]
        else:
            groups, owners = zero.round_robin_bit16_groups, zero.single_partition_of_fp32_groups
            places = zero.round_robin_bit16_offsets
        for index, (members, offsets, owner) in enumerate(zip(groups, places, owners, strict=True)):
            size = owner.numel()
            first = size * torch.distributed.get_rank(zero.real_dp_process_group[index])
            for parameter, offset in zip(members, offsets, strict=True):
                start, stop = max(offset, first), min(offset + parameter.numel(), first + size)
                if start < stop:
                    yield Held(self._names[id(parameter)], start - offset, stop - offset, owner, start - first)

    def _of_parameters(self) -> Iterator[Held]:
        zero, rank = self.wrapper, torch.distributed.get_rank()
        for owner, members in zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True):
            offset = 0
            for parameter in members:
                size = parameter.partition_numel()  # the last rank's part is padded
                start, stop = rank * size, min((rank + 1) * size, parameter.ds_numel)
                if start < stop:
                    yield Held(self._names[id(parameter)], start, stop, owner, offset)
                offset += size

    def share(self, rank: int, ranks: int) -> list[Held]:
        """Return the ranges that this rank writes, so that each element is written once.

        At stage 0, where each rank holds everything, every rank writes an equal share.
        """
        if self.stage:
            return self.held
        total = sum(each.stop for each in self.held)
        first, last = total * rank // ranks, total * (rank + 1) // ranks
        found, place = [], 0
        for each in self.held:
            start, stop = max(first - place, 0), min(last - place, each.stop)
            if start < stop:
                found.append(Held(each.name, start, stop, each.owner, start))
            place += each.stop
        return found

    # -- the optimizer's state

    def steps(self, held: Held) -> int | None:
        """Return the number of steps that AdamW has counted for the range; None before the first, when there are no moments."""
        state = self.optimizer.state.get(held.owner)
        return int(state["step"]) if state else None

    def moment(self, held: Held, kind: str) -> torch.Tensor:
        """Return a view of the range's part of `exp_avg` or `exp_avg_sq`."""
        return held.part(self.optimizer.state[held.owner][kind])

    def set_steps(self, steps: dict[str, int | None]) -> None:
        """Create AdamW's state for the given number of steps of each parameter, by name, with all moments zero.

        Raises:
            UserError: if parameters that share one state in this layout had different numbers of steps.
        """
        found: dict[torch.Tensor, set[int]] = {}
        for each in self.held:
            counts = found.setdefault(each.owner, set())
            if (count := steps[each.name]) is not None:
                counts.add(count)
        for owner, counts in found.items():
            if len(counts) > 1:
                raise UserError(
                    f"some parameters of the checkpoint were trained for {min(counts)} steps and some for {max(counts)}, which "
                    f"zero={self.stage} cannot store separately: resume with the zero= of the checkpoint"
                )
            self.optimizer.state.pop(owner, None)
            if counts:
                self.optimizer.state[owner] = _fresh_state(owner, counts.pop())

    @torch.no_grad()
    def weights_changed(self) -> None:
        """Update the model's weights from the float32 weights in the optimizer. All ranks call it together."""
        zero = self.wrapper
        if self.stage == 0:
            zero.round()
        elif self.stage in (1, 2):
            zero.update_lp_params()
        elif self.stage == 3:  # the same steps as after DeepSpeed loads its own checkpoint
            zero.checkpoint_event_prologue()
            for index in range(len(zero.fp16_groups)):
                zero._reassign_or_swap_out_partitioned_parameters(index)
            if whole := zero.persistent_parameters:
                whole[0].partition(whole)
            zero.checkpoint_event_epilogue()


def _fresh_state(owner: torch.Tensor, steps: int) -> dict[str, torch.Tensor]:
    moments = {kind: torch.zeros_like(owner, memory_format=torch.preserve_format) for kind in MOMENTS}
    return {"step": torch.tensor(float(steps), device=owner.device), **moments}
