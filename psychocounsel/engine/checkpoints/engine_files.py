"""An engine in a checkpoint: per rank one file of weights and one of optimizer state, and a description in JSON."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch

from psychocounsel.engine.checkpoints.partition import MOMENTS, Held, Partition
from psychocounsel.errors import UserError
from psychocounsel.rundir.manifest import damage, weights_marks
from psychocounsel.rundir.paths import CheckpointDir
from psychocounsel.storage.blob import Damaged
from psychocounsel.storage.files import DamagedFile, read_json
from psychocounsel.storage.hashes import FileMark
from psychocounsel.storage.tensor_file import TensorEntry, read_range, read_tensor_header, write_tensor_file

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
        name: {"shape": partition.shape(name), "dtype": _NAMES[each.dtype], "steps": steps[name]}
        for name, each in partition.parameters.items()
    }
    ranges = [[each[:3] for each in part] for part in slices]
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
                name: {"shape": list(map(int, each["shape"])), "dtype": _DTYPES[each["dtype"]], "steps": each["steps"]}
                for name, each in about["parameters"].items()
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
        steps = {name: each["steps"] for name, each in self.parameters.items()}
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
