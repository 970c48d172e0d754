"""Transfer of low-rank adapters to vLLM, which holds the base model and receives only the adapter."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psychocounsel.errors import UserError
from psychocounsel.storage.files import memory_folder

if TYPE_CHECKING:
    from psychocounsel.rollout.base import TrainedPolicy

_FILES = ("adapter_config.json", "adapter_model.safetensors")
_NO_ADAPTER = f"is not an adapter archive (it must hold exactly {' and '.join(_FILES)})"
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # ranks with vLLM kernels; other ranks are padded to the next one


def engine_rank(rank: int) -> int:
    """Return the rank that an engine must be started with for adapters of `rank`.

    Raises:
        UserError: if `rank` is too large for vLLM.
    """
    supported = next((supported_rank for supported_rank in _RANKS if supported_rank >= rank), None)
    if supported is None:
        raise UserError(f"model.lora.rank={rank}: vLLM supports adapters up to rank {_RANKS[-1]}; use rollout=hf")
    return supported


class AdapterFolder:
    """Folder in memory with the newest adapter in vLLM's format; vLLM treats each version as a new adapter."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="psychocounsel-", dir=memory_folder())
        self.path, self.number = Path(self._place.name), 0

    def request(self) -> Any:
        """Return vLLM's LoRARequest for the adapter in the folder."""
        from vllm.lora.request import LoRARequest

        self.number += 1
        return LoRARequest(f"adapter-{self.number}", self.number, str(self.path))

    def write(self, engine: TrainedPolicy) -> None:
        """Write the policy's present adapter. All ranks must call it together; each writes to its own folder."""
        from psychocounsel.model.lora import adapter_weights

        adapter, weights = engine.module.adapter, dict(adapter_weights(engine.module.lm))
        assert adapter is not None
        adapter.save(self.path, weights, "base", None)

    def packed(self) -> bytes:
        """Return the adapter's two files as one zip archive."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in _FILES:
                archive.write(self.path / name, name)
        return buffer.getvalue()

    def unpack(self, body: bytes) -> None:
        """Extract the files of `packed` into this folder.

        Raises:
            ValueError: if the archive does not hold exactly these two files.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(body)) as archive:
                if sorted(archive.namelist()) != sorted(_FILES):
                    raise ValueError(_NO_ADAPTER)
                for name in _FILES:
                    (self.path / name).write_bytes(archive.read(name))
        except zipfile.BadZipFile as error:
            raise ValueError(_NO_ADAPTER) from error
