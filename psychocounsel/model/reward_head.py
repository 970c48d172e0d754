"""Loading of reward models: a language model with a new head, or a trained reward model in one of two formats.

Hugging Face: `AutoModelForSequenceClassification` with one label and the head `score`, or with seven labels named by
the principles (`id2label`), whose scores are ratings. OpenRLHF: the trunk and a head
named by the config's `value_head_prefix` (`value_head` or `score`). A trained model whose head is missing or has
another shape is an error, because a random head would give random rewards.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.model.load import load_weights, loading, ready_to_train
from psychocounsel.model.output_layer import Head
from psychocounsel.model.tokenizer import resolve_path
from psychocounsel.rundir.paths import ModelDir
from psychocounsel.storage.files import read_json, read_mapping
from psychocounsel.storage.weight_files import no_reward_model

HEAD = "score"
_OPENRLHF = ("value_head_prefix", "normalize_reward")


def load_reward_lm(
    model: DictConfig,
    dtype: torch.dtype,
    zero3: dict[str, Any] | None,
    pad_token_id: int | None,
    device: str = "cpu",
    names: Sequence[str] = (),
    rating_middle: float = 0.0,
    unrated: Sequence[str] = (),
) -> Any:
    """Load `model.path` as a model of one score per sequence, or of a rating for each of `names`, for training.

    A language model gets a random new head. `rating_middle`: the middle of the rating scale. `unrated`: those of `names` that
    nothing teaches; their weights are 0, by which `unrated_names` recognises them.

    Raises:
        UserError: if the model cannot be loaded, or is a reward model without a usable head.
    """
    lm, has_head = _load(model, dtype, zero3, "model", device, names)
    if not has_head or unrated:
        _draw_head(lm, draws=not has_head, cleared=[names.index(name) for name in unrated])
    if names:
        lm.config.update({"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}})
        lm.config.rating_middle = rating_middle
    lm.config.pad_token_id = pad_token_id
    for name in _OPENRLHF:
        if hasattr(lm.config, name):
            delattr(lm.config, name)  # our exports have the Hugging Face format
    return ready_to_train(lm, model, device)


def load_trained_reward_lm(
    reward: DictConfig, dtype: torch.dtype, device: str = "cpu", zero3: dict[str, Any] | None = None
) -> Any:
    """Load `reward.path` on `device` for scoring: a reward model, or a LoRA adapter of one, which is merged.

    `zero3` (a DeepSpeed configuration) partitions a model while it is loaded, but not a merged one.

    Raises:
        UserError: if the model cannot be loaded, or has no trained head.
    """
    path = Path(resolve_path(reward.path, "reward"))
    if (path / "adapter_config.json").is_file():
        return _load_adapted(path, reward, dtype).to(device)
    lm, has_head = _load(reward, dtype, zero3, "reward", device)
    if not has_head:
        raise no_reward_model("reward.path", reward.path)
    return lm


def score_names(config: Any) -> tuple[str, ...]:
    """Return the principles if the labels of a config are these; otherwise (), for a model of one score."""
    return PRINCIPLES if tuple((getattr(config, "id2label", None) or {}).values()) == PRINCIPLES else ()


def unrated_names(lm: Any) -> tuple[str, ...]:
    """Return the principles that no row rated in the training of a reward model with a score for each."""
    taught = (getattr(lm, HEAD).weight != 0).any(1).tolist()
    return tuple(name for name, is_taught in zip(score_names(lm.config), taught, strict=False) if not is_taught)


def is_openrlhf(config: Any) -> bool:
    """Return True if a config belongs to an OpenRLHF checkpoint, which ends sequences with the end-of-turn token."""
    return any(hasattr(config, name) for name in _OPENRLHF)


def _load_adapted(path: Path, reward: DictConfig, dtype: torch.dtype) -> Any:
    from peft import PeftModel

    settings = read_json(path / "adapter_config.json")
    if HEAD not in (settings.get("modules_to_save") or []):
        raise UserError(f"reward.path={reward.path}: is an adapter of a language model, not of a reward model")
    base = OmegaConf.merge(reward, {"path": settings["base_model_name_or_path"], "revision": settings.get("revision")})
    lm, _ = _load(cast(DictConfig, base), torch.float32, None, "reward")
    try:
        lm = PeftModel.from_pretrained(lm, str(path)).merge_and_unload().to(dtype)
        lm.requires_grad_(True)  # peft froze the base, but a critic starts from the merged model
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"reward.path={reward.path}: the adapter does not fit its base ({str(error)[:200]})") from error
    about = read_mapping(ModelDir(path).about)
    lm.config.update({name: about.get(f"eval/reward_{name}") for name in ("mean", "std")})
    return lm


def _load(
    model: DictConfig,
    dtype: torch.dtype,
    zero3: dict[str, Any] | None,
    key: str,
    device: str = "cpu",
    names: Sequence[str] | None = None,
) -> tuple[Any, bool]:
    """Return the model, and True if its head is trained; `names` of its scores: None for those of its config."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with loading(model.path, key):
        config = AutoConfig.from_pretrained(resolve_path(model.path, key), revision=model.revision)
    names = score_names(config) if names is None else names
    is_language_model = any(name.endswith("ForCausalLM") for name in config.architectures or [])
    prefixes = {"value_head", getattr(config, "value_head_prefix", HEAD)} - {HEAD}
    renamed = {f"^{re.escape(prefix)}\\.": f"{HEAD}." for prefix in sorted(prefixes)}
    classifier = AutoModelForSequenceClassification
    try:
        more = {"num_labels": len(names) or 1, "key_mapping": renamed}
        lm, missing, _ = load_weights(classifier, model, dtype, zero3, key, device, **more)
    except RuntimeError as error:
        if "mismatch" not in str(error):
            raise
        raise UserError(
            f"{key}.path={model.path}: the shapes of its weights or head are not those of a reward model with "
            f"{len(names) or 1} score{'s' * bool(names)}"
        ) from error
    # Otherwise save_pretrained would rename the head back to the name it was loaded from.
    renamings = getattr(lm, "_weight_conversions", None) or []
    lm._weight_conversions = [renaming for renaming in renamings if f"{HEAD}." not in renaming.target_patterns] or None
    missing_head = {name for name in missing if name.startswith(f"{HEAD}.")}
    if rest := missing - missing_head:
        raise UserError(f"{key}.path={model.path}: lacks {len(rest)} of its weights, such as {sorted(rest)[0]}")
    if missing_head and not is_language_model:
        names = " or ".join(sorted([*prefixes, HEAD]))
        raise UserError(f"{key}.path={model.path}: has no reward head named {names}, and a new head would be random")
    if not hasattr(lm, HEAD):
        raise UserError(f"{key}.path={model.path}: this architecture has no linear head called {HEAD}")
    Head.adopt(getattr(lm, HEAD))
    return lm, not missing_head


def _draw_head(lm: Any, draws: bool, cleared: Sequence[int]) -> None:
    """Draw a head with std 1 / (H + 1), so that training begins with nearly equal scores; set the rows `cleared` to 0.

    arXiv 2009.01325, appendix B.1, uses the square root of H + 1 instead. Without `draws`, the other rows stay.
    """
    import deepspeed

    weight = getattr(lm, HEAD).weight
    with deepspeed.zero.GatheredParameters([weight], modifier_rank=0, enabled=hasattr(weight, "ds_id")):
        if weight.numel():
            if draws:
                torch.nn.init.normal_(weight, std=1 / (lm.config.get_text_config().hidden_size + 1))
            weight.data[list(cleared)] = 0
