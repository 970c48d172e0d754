"""Loading tokenizers and models: shipped, local or from the hub."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.errors import UserError
from psychocounsel.model.attention import implementation

_SHIPPED = Path(__file__).parent / "shipped"


def resolve_path(path: str) -> str:
    """The folder of a `builtin:` name; other paths and hub ids as they are."""
    if not path.startswith("builtin:"):
        return path
    folder = _SHIPPED / path.removeprefix("builtin:")
    if not folder.is_dir():
        names = ", ".join(f"builtin:{child.name}" for child in sorted(_SHIPPED.iterdir()))
        raise UserError(f"model.path={path}: not shipped; there is {names}")
    return str(folder)


def load_chat_format(model: DictConfig) -> tuple[Any, ChatFormat]:
    """Return the tokenizer and its chat format.

    Raises:
        UserError: if the tokenizer cannot be loaded or has no chat template.
    """
    from transformers import AutoTokenizer

    with _loading(model):
        tokenizer = AutoTokenizer.from_pretrained(resolve_path(model.path), revision=model.revision)
    if model.chat_template:
        tokenizer.chat_template = Path(model.chat_template).read_text(encoding="utf-8")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    args: Any = OmegaConf.to_container(model.template_args)
    return tokenizer, ChatFormat(tokenizer, args, model.path)


def model_dtype(model: DictConfig, device: torch.device) -> torch.dtype:
    """float32 or bfloat16; `auto` is bfloat16 on GPU and float32 on CPU."""
    auto = "bf16" if device.type == "cuda" else "fp32"
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[auto if model.dtype == "auto" else model.dtype]


def load_causal_lm(model: DictConfig, dtype: torch.dtype, zero3: dict[str, Any] | None) -> Any:
    """Load a causal language model for training in `dtype`; with `zero3` (a DeepSpeed configuration) partitioned at once.

    Raises:
        UserError: if it cannot be loaded, or is not a causal language model.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    path = resolve_path(model.path)
    with _loading(model):
        config = AutoConfig.from_pretrained(path, revision=model.revision)
        with _partitioned_loading(zero3):
            lm = AutoModelForCausalLM.from_pretrained(
                path,
                revision=model.revision,
                dtype=dtype,
                attn_implementation=implementation(config.get_text_config()),
            )
    lm.config.use_cache = False
    if model.gradient_checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lm


@contextmanager
def _loading(model: DictConfig) -> Iterator[None]:
    """One line for the many ways in which loading fails."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"model.path={model.path}: cannot be loaded ({reason[:300]})") from error


@contextmanager
def _partitioned_loading(zero3: dict[str, Any] | None) -> Iterator[None]:
    """Tell transformers to load under `zero.Init`. Its setting is global to the process, so it is undone at once."""
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


def weights_id(model: DictConfig) -> str:
    """What tells these weights from others: the hub commit, or a hash of a local folder's weight files."""
    path = Path(resolve_path(model.path))
    if not path.is_dir():
        from transformers.utils.hub import cached_file, extract_commit_hash

        resolved = cached_file(str(model.path), "config.json", revision=model.revision)
        return f"{model.path}@{extract_commit_hash(resolved, None)}"
    digest = hashlib.sha256()
    for file in sorted([*path.glob("*.safetensors"), *path.glob("*.bin"), path / "config.json"]):
        digest.update(file.name.encode())
        with open(file, "rb") as handle:
            while block := handle.read(1 << 22):
                digest.update(block)
    return f"sha256:{digest.hexdigest()}"


def set_cache_directories(cache: str) -> None:
    """Keep downloads and compiled kernels under `paths.cache`, unless the user's environment says otherwise.

    To be called before transformers or datasets is imported.
    """
    folders = {"TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
    if "HF_HOME" not in os.environ:  # the login token stays where it is
        folders |= {"HF_HUB_CACHE": "hub", "HF_DATASETS_CACHE": "datasets"}
    for variable, folder in folders.items():
        os.environ.setdefault(variable, f"{cache}/{folder}")
