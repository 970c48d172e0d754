"""An engine in a checkpoint: per rank one file of weights and one of optimizer state, and a description in JSON."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch

from psychocounsel.errors import UserError
from psychocounsel.rundir.manifest import damage, weights_marks
from psychocounsel.rundir.paths import CheckpointDir
from psychocounsel.storage.blob import Damaged
from psychocounsel.storage.files import DamagedFile, read_json
from psychocounsel.storage.hashes import FileMark
from psychocounsel.storage.tensor_file import TensorEntry, read_range, read_tensor_header, write_tensor_file

# State of a DeepSpeed engine as ranges of its parameters, the same for every ZeRO stage and number of processes.
#
# DeepSpeed stores float32 weights and AdamW's moments in three layouts: per parameter (stage 0), in flat groups that
# are cut among the ranks at any element (stages 1 and 2), or per parameter, each cut among the ranks (stage 3). A
# range of one flattened parameter can be read from and written to all of them.

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
        self.parameters = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
        self._names = {id(parameter): name for name, parameter in self.parameters.items()}
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
            places = [list(accumulate([member.numel() for member in members], initial=0))[:-1] for members in groups]
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
        total = sum(piece.stop for piece in self.held)
        first, last = total * rank // ranks, total * (rank + 1) // ranks
        pieces, place = [], 0
        for piece in self.held:
            start, stop = max(first - place, 0), min(last - place, piece.stop)
            if start < stop:
                pieces.append(Held(piece.name, start, stop, piece.owner, start))
            place += piece.stop
        return pieces

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
        counts_of: dict[torch.Tensor, set[int]] = {}
        for piece in self.held:
            counts = counts_of.setdefault(piece.owner, set())
            if (count := steps[piece.name]) is not None:
                counts.add(count)
        for owner, counts in counts_of.items():
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


# Files of an engine

_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
Slice = tuple[str, int, int, int | None]  # parameter, first element, end of the range, AdamW's step count


@dataclass
class Shard:
    """One rank's part of an engine: flat tensors by their name in the file, and the ranges of the parameters that they hold."""

    slices: list[Slice] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    optimizer: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Size of all tensors [bytes]."""
        return sum(value.nbytes for value in (*self.weights.values(), *self.optimizer.values()))

    def copied(self, copy: Callable[[str, torch.Tensor], torch.Tensor]) -> "Shard":
        """Return the shard with each tensor replaced by `copy(name, tensor)`."""
        weights = {name: copy(name, value) for name, value in self.weights.items()}
        return Shard(self.slices, weights, {name: copy(name, value) for name, value in self.optimizer.items()})


def shard_of(partition: Partition, rank: int, ranks: int) -> Shard:
    """Return this rank's part of the engine, in tensors that the next step will change."""
    shard = Shard()
    for held in partition.share(rank, ranks):
        steps = partition.steps(held)
        shard.slices.append((held.name, held.start, held.stop, steps))
        shard.weights[held.name] = held.part(held.owner)
        if steps is not None:
            shard.optimizer |= {f"{kind}.{held.name}": partition.moment(held, kind) for kind in MOMENTS}
    return shard


def describe(partition: Partition, slices: Sequence[Sequence[Slice]]) -> dict[str, Any]:
    """Return the content of `engine.json`.

    It holds the ZeRO stage, each parameter's shape, dtype and step count, and the ranges that each rank has written.
    """
    steps = {name: count for part in slices for name, _, _, count in part}
    parameters = {
        name: {"shape": partition.shape(name), "dtype": _NAMES[parameter.dtype], "steps": steps[name]}
        for name, parameter in partition.parameters.items()
    }
    ranges = [[piece[:3] for piece in part] for part in slices]
    return {"zero_stage": partition.stage, "processes": len(ranges), "parameters": parameters, "slices": ranges}


def write_shard(
    shard: Shard, shapes: dict[str, list[int]], target: CheckpointDir, engine: str, rank: int
) -> dict[str, FileMark]:
    """Write this rank's two files and sync them to disk; return their marks (sizes and hashes) by relative path.

    `shapes`: the shape of each parameter, in which whole parameters are stored; a part of a parameter is stored flat.

    Raises:
        OSError: if the files cannot be written.
    """
    marks = {}
    for path, tensors in (
        (target.weights(engine, rank), shard.weights),
        (target.optimizer(engine, rank), shard.optimizer),
    ):
        header = {
            name: (
                _NAMES[value.dtype],
                whole if prod(whole := shapes.get(name, [-1])) == value.numel() else [value.numel()],
            )
            for name, value in tensors.items()
        }
        marks[path.relative_to(target.path).as_posix()] = write_tensor_file(
            path, header, map(_content, tensors.values())
        )
    return marks


def _content(value: torch.Tensor) -> memoryview:
    return memoryview(value.cpu().contiguous().view(torch.uint8).numpy())


class EngineFiles:
    """Reads an engine from the checkpoint in `folder`, whose files must be intact, for any number of writing ranks.

    Raises:
        UserError: if the description of the engine cannot be read.
    """

    def __init__(self, folder: Path, engine: str) -> None:
        self.folder, self.engine = CheckpointDir(folder), engine
        self._headers: dict[Path, dict[str, TensorEntry]] = {}
        self._pieces: dict[str, list[tuple[int, int, int]]] = {}
        try:
            about = read_json(self.folder.description(engine))
            self.parameters: dict[str, dict[str, Any]] = {
                name: {
                    "shape": list(map(int, entry["shape"])),
                    "dtype": _DTYPES[entry["dtype"]],
                    "steps": entry["steps"],
                }
                for name, entry in about["parameters"].items()
            }
            for rank, ranges in enumerate(about["slices"]):
                for name, start, stop in ranges:
                    self._pieces.setdefault(name, []).append((int(start), int(stop), rank))
        except (OSError, DamagedFile, ValueError, KeyError, TypeError, AttributeError) as error:
            self._unreadable(error)

    def _unreadable(self, error: Exception) -> NoReturn:
        raise UserError(
            f"{self.folder.path}: {self.engine} cannot be read from this checkpoint; restore or delete this folder"
        ) from error

    def read(self, kind: str, name: str, start: int, stop: int) -> torch.Tensor:
        """Return the elements `start` to `stop` of a parameter's "weights", "exp_avg" or "exp_avg_sq", flat.

        Raises:
            UserError: if some of these elements are missing.
        """
        parts, place = [], start
        try:
            for first, last, rank in sorted(self._pieces.get(name, [])):
                if first <= place < min(last, stop):
                    end = min(last, stop)
                    parts.append(self._part(kind, name, rank, place - first, end - first))
                    place = end
        except (Damaged, OSError, KeyError, ValueError) as error:
            self._unreadable(error)
        if place < stop or sum(map(len, parts)) != stop - start:
            self._unreadable(ValueError(f"{name} has a gap at {place}"))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _part(self, kind: str, name: str, rank: int, start: int, stop: int) -> torch.Tensor:
        alone = kind == "weights"
        path = self.folder.weights(self.engine, rank) if alone else self.folder.optimizer(self.engine, rank)
        if path not in self._headers:
            self._headers[path] = read_tensor_header(path)
        entry = self._headers[path][name if alone else f"{kind}.{name}"]
        if stop > entry.elements:
            raise ValueError(f"{name} is too short")
        return torch.from_numpy(read_range(path, entry, start, stop)).view(_DTYPES[entry.dtype])

    def restore(self, partition: Partition) -> None:
        """Load the whole state into an engine of any ZeRO stage and number of processes. All ranks call it together.

        Raises:
            UserError: if the checkpoint belongs to another model or cannot be read, or as in `Partition.set_steps`.
        """
        for name in sorted(partition.parameters.keys() ^ self.parameters.keys()) or partition.parameters:
            if name not in self.parameters or self.parameters[name]["shape"] != partition.shape(name):
                raise UserError(f"{self.folder.path}: belongs to another model (parameter {name}); use another run_dir")
        steps = {name: entry["steps"] for name, entry in self.parameters.items()}
        partition.set_steps(steps)
        with torch.no_grad():
            for held in partition.held:
                held.part(held.owner).copy_(self._range("weights", held))
                for kind in MOMENTS if steps[held.name] is not None else ():
                    partition.moment(held, kind).copy_(self._range(kind, held))
        partition.weights_changed()

    def _range(self, kind: str, held: Held) -> torch.Tensor:
        return self.read(kind, held.name, held.start, held.stop)

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield each trained parameter, whole and rounded to the model's dtype."""
        for name, about in self.parameters.items():
            yield name, self.read("weights", name, 0, prod(about["shape"])).view(about["shape"]).to(about["dtype"])


def read_weights(folder: Path, engine: str) -> dict[str, torch.Tensor]:
    """Return the trained parameters of an engine in the checkpoint in `folder`, whose optimizer state may be missing.

    Raises:
        UserError: if a file is damaged or cannot be read.
    """
    if wrong := damage(folder, weights_marks(folder, engine)):
        raise UserError(f"{folder}: is damaged: {wrong}; restore it, or use another checkpoint")
    return dict(EngineFiles(folder, engine).weights())
