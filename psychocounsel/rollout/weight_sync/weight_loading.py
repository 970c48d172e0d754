"""Extension of vLLM workers (`worker_extension_cls`) that loads new weights in place, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

NAME = "psychocounsel.rollout.weight_sync.weight_loading.WeightLoading"


class WeightLoading:
    """Methods of a worker, called by name: begin_weights, take_weights as often as needed, end_weights.

    For a process group, `join_trainer` follows begin_weights, and take_broadcast replaces take_weights.
    """

    model_runner: Any
    vllm_config: Any
    rank: int  # number among the engine's workers
    device: Any
    trainer: Any = None  # process group with rank 0 of training

    def begin_weights(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self.trainer = None  # drop the group of an unfinished transfer
        with self._configured():
            initialize_layerwise_reload(self.model_runner.get_model())

    def take_weights(self, weights: Iterable[tuple[str, Any]] | str) -> None:
        """Load some parameters: pairs of a Hugging Face name and a tensor, or the path of a safetensors file."""
        if isinstance(weights, str):
            from safetensors.torch import load_file

            weights = load_file(weights).items()
        with self._configured():
            self.model_runner.get_model().load_weights(iter(weights))

    def join_trainer(self, meeting: dict[str, Any]) -> None:
        """Join the process group with rank 0 of training; `meeting` holds keyword arguments of `process_group.join`."""
        from psychocounsel.distributed.process_group import join

        self.trainer = join(rank=1 + self.rank, device=self.device, **meeting)

    def take_broadcast(self, header: Any) -> None:
        """Load the parameters of `header` (`process_group.Header`), which rank 0 of training sends now."""
        self.take_weights(self.trainer.receive(header))

    def end_weights(self) -> None:
        """Move the loaded weights to the place where the engine computes with them."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        model = self.model_runner.get_model()
        with self._configured():
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            head, embeddings = _part(model, "lm_head"), _part(model, "model.embed_tokens")
            if head is not embeddings and getattr(head, "weight", None) is getattr(embeddings, "weight", model):
                # A tied output layer loads nothing itself; on CPU it would keep using a packed copy of the old weights.
                head.quant_method.process_weights_after_loading(head)
        self.model_runner.reset_encoder_cache()
        if self.trainer is not None:
            self.trainer.close()
            self.trainer = None

    def _configured(self) -> AbstractContextManager[None]:
        """Return vLLM's configuration context, because layers read the engine's configuration when they repack weights."""
        from vllm.config import set_current_vllm_config

        context: AbstractContextManager[None] = set_current_vllm_config(self.vllm_config)
        return context


def _part(model: Any, name: str) -> Any:
    for step in name.split("."):
        model = getattr(model, step, None)
    return model
