"""Loading of tokenizers and their chat formats, without torch, because the check of rows before a submission needs no model."""

import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.system_prompt import policy_prompt
from psychocounsel.data.tokenise import ChatFormat
from psychocounsel.errors import UserError
from psychocounsel.remote.hub import require_known
from psychocounsel.storage.files import SHIPPED_MODELS, read_json

_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def resolve_path(path: str, key: str = "model") -> str:
    """Return the folder of a `builtin:` name; other paths and hub ids are returned unchanged.

    Raises:
        UserError: if there is no shipped model of this name.
    """
    if not path.startswith("builtin:"):
        return path
    folder = SHIPPED_MODELS / path.removeprefix("builtin:")
    if not folder.is_dir():
        names = ", ".join(f"builtin:{child.name}" for child in sorted(SHIPPED_MODELS.iterdir()))
        raise UserError(f"{key}.path={path}: not a shipped model; choose from {names}")
    return str(folder)


def require_model(path: str, revision: str | None, key: str) -> None:
    """Refuse a hub id that neither the cache nor the hub knows, because it may be a mistyped folder.

    Raises:
        UserError: naming `key`, and `builtin:NAME` if `path` is the name of a shipped model.
    """
    if _HUB_ID.fullmatch(path) and not Path(path).exists():
        if path in {folder.name for folder in SHIPPED_MODELS.iterdir()}:
            raise UserError(f"{key}.path={path}: this folder does not exist; did you mean builtin:{path}?")
        require_known(path, revision, f"{key}.path")


def load_tokenizer(model: DictConfig, key: str) -> Any:
    """Return the tokenizer of a model; `key` is the config section named in errors.

    Raises:
        UserError: if the tokenizer cannot be loaded.
    """
    from transformers import AutoTokenizer

    require_model(model.path, model.revision, key)
    try:
        return AutoTokenizer.from_pretrained(resolve_path(model.path, key), revision=model.revision)
    except Exception as error:  # a damaged tokenizer.json raises a plain Exception
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{key}.path={model.path}: its tokenizer cannot be loaded ({reason[:300]})") from error


def load_chat_format(model: DictConfig, key: str = "model", scores: bool = False) -> tuple[Any, ChatFormat]:
    """Return the tokenizer and its chat format; `key` is the config group named in errors.

    Sections of models whose messages hold their system prompt already have no key `system_prompt`.

    For a model that `scores`, replies keep all text that the template writes after them, and padding must be a separate
    token.

    Raises:
        UserError: if the tokenizer or the file `chat_template` cannot be loaded, there is no usable chat template, or a
            model that `scores` has no token left for padding.
    """
    tokenizer = load_tokenizer(model, key)
    if model.chat_template:
        tokenizer.chat_template = _template(model.chat_template, key)
    args: Any = OmegaConf.to_container(model.template_args)
    prompt = policy_prompt(model.get("system_prompt"), model.path, f"{key}.system_prompt")
    chat = ChatFormat(tokenizer, args, model.path, prompt)
    path = resolve_path(model.path, key)
    chat.positions, chat.vocabulary = _limits(path, model.revision)
    chat.own_ends = _own_ends(path, model.revision)
    set_padding(tokenizer, chat.used_tokens(), chat.vocabulary)
    chat.keep_tail = scores
    if scores and tokenizer.pad_token_id in chat.used_tokens():
        raise UserError(
            f"{key}.path={model.path}: its tokenizer has no special token left for padding; a reward model cannot pad with "
            "its end token, so add a padding token to the tokenizer"
        )
    return tokenizer, chat


def _limits(path: str, revision: str | None) -> tuple[int | None, int | None]:
    """Return the longest input and the number of embeddings of a model; None for what its config.json does not say."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(path, revision=revision).get_text_config()
        positions, vocabulary = (getattr(config, name, None) for name in ("max_position_embeddings", "vocab_size"))
        scaling = getattr(config, "rope_scaling", None) or getattr(config, "rope_parameters", None) or {}
        if positions and scaling.get("factor"):
            stretched = scaling["factor"] * scaling.get("original_max_position_embeddings", positions)
            positions = max(positions, int(stretched))
        return positions and int(positions), vocabulary and int(vocabulary)
    except Exception:  # the tokenizer of a served model has no config.json; loading a model names its own faults
        return None, None


def _own_ends(path: str, revision: str | None) -> list[int]:
    """Return the end tokens of the model's generation_config.json; none if it has no such file."""
    from transformers.utils.hub import cached_file

    try:
        file = cached_file(path, "generation_config.json", revision=revision)
    except OSError:
        return []
    try:
        ends = (read_json(Path(str(file))) or {}).get("eos_token_id")
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: its generation_config.json is not a JSON object; correct or remove the file"
        ) from error
    return [end for end in (ends if isinstance(ends, list) else [ends]) if isinstance(end, int)]


def _template(file: str, key: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{key}.chat_template={file}: cannot be read as UTF-8 text") from error


def set_padding(tokenizer: Any, used: set[int], vocabulary: int | None = None) -> None:
    """Choose a padding token that does not occur in conversations, and that the model embeds (`vocabulary`: how many it does).

    Otherwise, models that look for the last token that is not padding would miss the end of a reply. If there is no
    such token, the padding token is unchanged, or the end token if the model has no embedding of it.
    """
    known = range(len(tokenizer) if vocabulary is None else vocabulary)
    if tokenizer.pad_token_id in known and tokenizer.pad_token_id not in used:
        return
    special = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    free = [
        content
        for content, index in sorted(special.items(), key=lambda item: item[1])
        if index in known and index not in used
    ]
    best = [content for content in free if "pad" in content] or [c for c in free if "endoftext" in c] or free
    own = tokenizer.pad_token if tokenizer.pad_token_id in known else None
    tokenizer.pad_token = best[0] if best else own or tokenizer.eos_token
