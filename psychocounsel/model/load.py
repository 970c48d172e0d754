"""Loading of models: shipped, local or from the hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors import SafetensorError

from psychocounsel.errors import UserError, is_disk_full
from psychocounsel.model.gpu import set_kernels
from psychocounsel.model.tokenizer import require_model, resolve_path
from psychocounsel.storage.hashes import content_id
from psychocounsel.storage.weight_files import check_model_folder

_MODES = ("do_sample", "num_beams", "return_dict_in_generate", "use_cache")


def model_dtype(model: DictConfig, device: torch.device) -> torch.dtype:
    """Return float32 or bfloat16; `auto` is bfloat16 on GPU and float32 on CPU."""
    auto = "bf16" if device.type == "cuda" else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[auto if model.dtype == "auto" else model.dtype]


def load_causal_lm(model: DictConfig, dtype: torch.dtype, zero3: dict[str, Any] | None, device: str = "cpu") -> Any:
    """Load a causal language model for training in `dtype`; `zero3` (a DeepSpeed configuration) partitions it while loading.

    Weights that are not partitioned are put on `device`.

    Raises:
        UserError: if the model cannot be loaded, or is not a causal language model.
    """
    from transformers import AutoModelForCausalLM

    lm, missing, unexpected = load_weights(AutoModelForCausalLM, model, dtype, zero3, device=device)
    if any(name.startswith(("score.", "value_head.")) for name in unexpected):
        raise UserError(
            f"model.path={model.path}: is a reward model, not a language model; only algo=reward can train it further"
        )
    if missing:
        raise UserError(f"model.path={model.path}: lacks {len(missing)} of its weights, such as {sorted(missing)[0]}")
    lm.generation_config, _ = _usable(lm.generation_config)
    return ready_to_train(lm, model, device)


def dropped_flags(model: DictConfig) -> list[str]:
    """Return the settings of generation_config.json that loading drops, because transformers would not save them again.

    An example is `temperature` beside `do_sample: false`.
    """
    from transformers import GenerationConfig

    try:
        return _usable(GenerationConfig.from_pretrained(resolve_path(model.path), revision=model.revision))[1]
    except OSError:  # the model has no such file
        return []


def _usable(given: Any) -> tuple[Any, list[str]]:
    """Return the settings of `given` that are valid together, and the names of the others."""
    usable, dropped = type(given)(), []
    flags = {name: value for name, value in given.to_diff_dict().items() if name != "transformers_version"}
    for name in sorted(flags, key=lambda name: name not in _MODES):  # the flags that make others valid come first
        default = getattr(usable, name, None)
        setattr(usable, name, flags[name])
        try:
            usable.validate(strict=True)
        except (ValueError, TypeError):  # TypeError: a setting of another type, or with the name of a method
            setattr(usable, name, default)
            dropped.append(name)
    return usable, sorted(dropped)


def load_weights(
    kind: Any,
    model: DictConfig,
    dtype: torch.dtype,
    zero3: dict[str, Any] | None,
    key: str = "model",
    device: str = "cpu",
    **more: Any,
) -> tuple[Any, set[str], set[str]]:
    """Load `model.path` as `kind` (a transformers Auto class); return the model, its missing weights and unexpected ones.

    Weights go to `device` one after another, so host memory never holds a whole model for each rank.

    Raises:
        UserError: if the model cannot be loaded.
    """
    path = resolve_path(model.path, key)
    require_model(model.path, model.revision, key)
    if Path(path).is_dir():
        check_model_folder(Path(path), f"{key}.path")
    # On Hopper, torch gives attention with a mask to cuDNN, which plans anew for each shape and fails for some masks.
    torch.backends.cuda.enable_cudnn_sdp(False)
    with loading(model.path, key):
        if model.get("quantise"):
            more |= {"quantization_config": _quantisation(dtype)}
        elif device != "cpu" and zero3 is None:
            more |= {"device_map": {"": _numbered(device)}}
        with _partitioned_loading(zero3):
            lm, info = kind.from_pretrained(
                path,
                revision=model.revision,
                dtype=dtype,
                output_loading_info=True,
                use_safetensors=True,  # reading a pickle can run code
                **more,
            )
        if zero3 is not None:
            _restore_buffers(lm, kind, dtype)
    return lm, set(info["missing_keys"]), set(info["unexpected_keys"])


def _numbered(device: str) -> str:
    """Return the device with its number, because transformers loads in threads, whose current GPU is always the first."""
    return f"cuda:{torch.cuda.current_device()}" if device == "cuda" else device


def ready_to_train(lm: Any, model: DictConfig, device: str) -> Any:
    lm.config.use_cache = False
    set_kernels(lm, model.get("kernels") or "plain", model.path, device)
    if model.gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lm


def _quantisation(dtype: torch.dtype) -> Any:
    """Return the settings of four-bit NormalFloat weights that compute in `dtype` (QLoRA, arXiv 2305.14314)."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


@contextmanager
def loading(path: str, key: str) -> Iterator[None]:
    """Turn errors of loading into a UserError of one line within this context, except that of a full disk."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, SafetensorError) as error:
        if is_disk_full(error):
            raise
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{key}.path={path}: cannot be loaded ({reason[:300]})") from error


@contextmanager
def _partitioned_loading(zero3: dict[str, Any] | None) -> Iterator[None]:
    """Make transformers load under `zero.Init`. Its setting is global to the process, so it is undone at the end."""
    if zero3 is None:
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig, unset_hf_deepspeed_config

    setting = HfDeepSpeedConfig(zero3)
    try:
        yield
    finally:
        unset_hf_deepspeed_config()
        del setting


def _restore_buffers(lm: Any, kind: Any, dtype: torch.dtype) -> None:
    """Compute again the buffers that no checkpoint holds, such as rotary frequencies.

    `zero.Init` rounds every new tensor to the dtype of the weights. In bfloat16 a frequency is then wrong by up to 0.4 %,
    which is radians after a thousand tokens.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        fresh = kind.from_config(lm.config, dtype=dtype)
    stored = lm.state_dict().keys()
    for name, value in fresh.named_buffers():
        if name not in stored:
            owner, _, own_name = name.rpartition(".")
            setattr(lm.get_submodule(owner), own_name, value.to(lm.get_buffer(name).device))


def weights_id(model: DictConfig, cache: str) -> str:
    """Return an id of the weights: the hub commit, or a hash of a local folder's weight files and config.json.

    The hash is cached under `cache` (`paths.cache`).
    """
    path = Path(resolve_path(model.path))
    if not path.is_dir():
        from transformers.utils.hub import cached_file, extract_commit_hash

        resolved = cached_file(str(model.path), "config.json", revision=model.revision)
        if commit := extract_commit_hash(resolved, None):
            return f"{model.path}@{commit}"
        path = Path(str(resolved)).parent
    return content_id(path, sorted([*path.glob("*.safetensors"), *path.glob("*.bin"), path / "config.json"]), cache)
