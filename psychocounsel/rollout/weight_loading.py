"""What a vLLM worker is taught: to take new weights in place, piece by piece (vLLM's `worker_extension_cls`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

NAME = "psychocounsel.rollout.weight_loading.WeightLoading"


class WeightLoading:
    """Methods of a worker; called by name, in the order begin_weights, take_weights as often as needed, end_weights."""

    model_runner: Any
    vllm_config: Any

    def begin_weights(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model_runner.get_model())

    def take_weights(self, weights: Iterable[tuple[str, Any]] | str) -> None:
        """Load some parameters: pairs of a name, as in the Hugging Face model, and a tensor, or a safetensors file of them."""
        if isinstance(weights, str):
            from safetensors.torch import load_file

            weights = load_file(weights).items()
        self.model_runner.get_model().load_weights(iter(weights))

    def end_weights(self) -> None:
        """Put the loaded weights where the engine computes with them."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        model = self.model_runner.get_model()
        finalize_layerwise_reload(model, self.vllm_config.model_config)
        head, embeddings = _part(model, "lm_head"), _part(model, "model.embed_tokens")
        if head is not embeddings and getattr(head, "weight", None) is getattr(embeddings, "weight", model):
            # A tied output layer loads nothing itself, and on CPU would keep computing with a packed copy of before.
            head.quant_method.process_weights_after_loading(head)
        self.model_runner.reset_encoder_cache()


def _part(model: Any, name: str) -> Any:
    for step in name.split("."):
        model = getattr(model, step, None)
    return model
