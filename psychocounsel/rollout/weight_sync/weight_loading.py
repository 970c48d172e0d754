"""What a vLLM worker is taught: to take new weights in place, piece by piece (vLLM's `worker_extension_cls`)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

NAME = "psychocounsel.rollout.weight_sync.weight_loading.WeightLoading"


class WeightLoading:
    """Methods of a worker; called by name, in the order begin_weights, take_weights as often as needed, end_weights.

    Or with `join_trainer` after the first, and take_broadcast in place of take_weights.
    """

    model_runner: Any
    vllm_config: Any
    rank: int  # among the engine's workers
    device: Any
    trainer: Any = None  # the process group with rank 0 of training

    def begin_weights(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        self.trainer = None  # of a transfer that came to no end
        with self._configured():
            initialize_layerwise_reload(self.model_runner.get_model())

    def take_weights(self, weights: Iterable[tuple[str, Any]] | str) -> None:
        """Load some parameters: pairs of a name, as in the Hugging Face model, and a tensor, or a safetensors file of them."""
        if isinstance(weights, str):
            from safetensors.torch import load_file

            weights = load_file(weights).items()
        with self._configured():
            self.model_runner.get_model().load_weights(iter(weights))

    def join_trainer(self, meeting: dict[str, Any]) -> None:
        """Be a rank of the process group that is described by the words of `collective.join`."""
        from psychocounsel.distributed.process_group import join

        self.trainer = join(rank=1 + self.rank, device=self.device, **meeting)

    def take_broadcast(self, header: Any) -> None:
        """Load the parameters of `header` (`collective.Header`) that rank 0 of training sends now."""
        self.take_weights(self.trainer.receive(header))

    def end_weights(self) -> None:
        """Put the loaded weights where the engine computes with them."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        model = self.model_runner.get_model()
        with self._configured():
            finalize_layerwise_reload(model, self.vllm_config.model_config)
            head, embeddings = _part(model, "lm_head"), _part(model, "model.embed_tokens")
            if head is not embeddings and getattr(head, "weight", None) is getattr(embeddings, "weight", model):
                # A tied output layer loads nothing itself, and on CPU would keep computing with a packed copy of before.
                head.quant_method.process_weights_after_loading(head)
        self.model_runner.reset_encoder_cache()
        if self.trainer is not None:
            self.trainer.close()
            self.trainer = None

    def _configured(self) -> AbstractContextManager[None]:
        """As vLLM's worker does around its own loading: layers ask for the engine's configuration when they repack weights."""
        from vllm.config import set_current_vllm_config

        context: AbstractContextManager[None] = set_current_vllm_config(self.vllm_config)
        return context


def _part(model: Any, name: str) -> Any:
    for step in name.split("."):
        model = getattr(model, step, None)
    return model
