"""Low-rank adapters on their way to vLLM: it holds the base model, and only the adapter is sent."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psychocounsel.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from psychocounsel.rollout.base import TrainedPolicy

_FILES = ("adapter_config.json", "adapter_model.safetensors")
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for; a smaller one is padded


def engine_rank(rank: int) -> int:
    """The rank that an engine is started with for adapters of `rank`.

    Raises:
        UserError: if vLLM takes none so large.
    """
    found = next((each for each in _RANKS if each >= rank), None)
    if found is None:
        raise UserError(f"model.lora.rank={rank}: vLLM takes adapters up to rank {_RANKS[-1]}; use rollout=hf")
    return found


def lora_arguments(lora: DictConfig) -> dict[str, Any]:
    """vLLM's engine arguments for a policy with adapters: the base model, which never changes, comes from disk."""
    rank = engine_rank(lora.rank)
    return {"load_format": "auto", "enable_lora": True, "max_loras": 1, "max_lora_rank": rank}


class AdapterFolder:
    """A folder in memory that holds the newest adapter as vLLM reads it; each version is a new one to vLLM."""

    def __init__(self) -> None:
        shared = "/dev/shm"
        self._place = tempfile.TemporaryDirectory(
            prefix="psychocounsel-", dir=shared if Path(shared).is_dir() else None
        )
        self.path, self.number = Path(self._place.name), 0

    def request(self) -> Any:
        """vLLM's LoRARequest for what lies in the folder now."""
        from vllm.lora.request import LoRARequest

        self.number += 1
        return LoRARequest(f"adapter-{self.number}", self.number, str(self.path))

    def write(self, engine: TrainedPolicy) -> None:
        """Write the policy's adapter as it is. All ranks must call it together; each writes a folder of its own."""
        from psychocounsel.model.lora import adapter_weights

        adapter, weights = engine.module.adapter, dict(adapter_weights(engine.module.lm))
        assert adapter is not None
        adapter.save(self.path, weights, "base", None)

    def packed(self) -> bytes:
        """The adapter's two files as one."""
        made = io.BytesIO()
        with zipfile.ZipFile(made, "w") as archive:
            for name in _FILES:
                archive.write(self.path / name, name)
        return made.getvalue()

    def unpack(self, body: bytes) -> None:
        """Put the files of `packed` here.

        Raises:
            ValueError: if they are not those two.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                if sorted(archive.namelist()) != sorted(_FILES):
                    raise ValueError("is no adapter")
                for name in _FILES:
                    (self.path / name).write_bytes(archive.read(name))
        except zipfile.BadZipFile as error:
            raise ValueError("is no adapter") from error
