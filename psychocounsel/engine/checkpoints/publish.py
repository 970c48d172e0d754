"""Export of a run's weights, the best model or a checkpoint, to a folder and to the hub."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from psychocounsel.engine.checkpoints.engine_files import read_weights
from psychocounsel.engine.checkpoints.model_folder import (
    CARD,
    Companions,
    draft_of,
    fill_folder,
    model_card,
    record_hosts,
)
from psychocounsel.engine.engines import load_model
from psychocounsel.errors import UserError
from psychocounsel.model.load import model_dtype, weights_id
from psychocounsel.model.lora import merged_parameters
from psychocounsel.model.settings import saves_adapter
from psychocounsel.model.tokenizer import load_chat_format
from psychocounsel.remote.received import shown
from psychocounsel.rundir.manifest import complete_checkpoints, is_complete
from psychocounsel.rundir.paths import CheckpointDir, ModelDir, RunDir
from psychocounsel.rundir.results import read_metrics
from psychocounsel.rundir.run import read_environment
from psychocounsel.settings import config as configs
from psychocounsel.storage.files import read_json, read_mapping, recover_directory, replace_directory, write_atomically
from psychocounsel.storage.weight_files import check_model_file, check_model_folder

# Files of an earlier push, which a loader would mistake for parts of the new model.
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "adapter_config.json")


def assemble(
    run: Path, config: DictConfig, step: int | None, merge: bool, folder: Path, allowed_hosts: list[str] | None
) -> dict[str, Any]:
    """Write the run's best model, or that of the checkpoint of `step`, to `folder`; return its step and figures.

    `merge`: merge a LoRA adapter into its base, so that the result is one model. `allowed_hosts`: the hosts that may
    receive the weights, recorded in the folder; None unless they were trained on confidential data.

    Raises:
        UserError: if these weights do not exist or do not fit the model, or `merge` is set but there is no adapter.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # merging imports DeepSpeed, which need not look for a GPU
    recover_directory(folder)
    if merge and not config.model.lora.rank:
        raise UserError(f"{run}: has no adapter to merge, because all weights were trained; leave out merge=true")
    if step is None and not (merge and saves_adapter(config.model)):
        return _copy_best(run, config, folder, allowed_hosts)
    config.model.lora.merge = config.model.lora.merge or merge
    config.model.quantise = None  # an adapter is merged into full weights
    if step is None:
        about, weights = _about(run), _adapter_weights(RunDir(run).model)
    else:
        engine = configs.target_class(config, "algo").needs.main
        about, weights = _about_step(run, step), _checkpoint_weights(run, step, engine)
    _rebuild(run, config, weights, about, folder, allowed_hosts)
    return about


def _copy_best(run: Path, config: DictConfig, folder: Path, allowed_hosts: list[str] | None) -> dict[str, Any]:
    draft = draft_of(folder)
    about = _copy_whole(run, draft)
    write_atomically(draft / CARD, model_card(config, about))
    record_hosts(draft, allowed_hosts)
    replace_directory(draft, folder)
    return about


def _copy_whole(run: Path, draft: Path) -> dict[str, Any]:
    """Copy the files that we write into `model/`; repeat if the run, still training, replaced it by a better model meanwhile."""
    while True:
        about, model = _about(run), RunDir(run).model
        before = model.stat().st_ino
        shutil.rmtree(draft, ignore_errors=True)
        try:
            left_out = _copy_known(model, draft)
        except (OSError, UserError):
            if model.exists() and model.stat().st_ino == before:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        else:
            if model.exists() and model.stat().st_ino == before:
                if left_out:
                    print(
                        f"{model}: left out {', '.join(map(repr, left_out))}: an export holds only files that training writes"
                    )
                return about


def _copy_known(model: Path, draft: Path) -> list[str]:
    """Copy the checked files of a model folder that are ours and hold no code; return the names of the others."""
    check_model_folder(model, "model")
    known, others = ModelDir(model).files()
    for file in known:
        check_model_file(file)
        copy = draft / file.relative_to(model)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
    return others


def _about(run: Path) -> dict[str, Any]:
    about = read_mapping(ModelDir(RunDir(run).model).about)
    if not about:
        raise UserError(
            f"{run}: has no model yet: the first evaluation during training writes it; step=N exports a checkpoint"
        )
    return about


def _about_step(run: Path, step: int) -> dict[str, Any]:
    line: dict[str, Any] = next((row for row in read_metrics(RunDir(run).metrics) if row["step"] == step), {})
    return {"step": step, **{name: value for name, value in line.items() if name.startswith("eval/")}}


def _checkpoint_weights(run: Path, step: int, engine: str) -> dict[str, torch.Tensor]:
    folder = RunDir(run).checkpoint(step).path
    if not is_complete(folder):
        steps = ", ".join(str(CheckpointDir(path).step) for path in complete_checkpoints(run)) or "none"
        raise UserError(
            f"step={step}: {run} has no complete checkpoint of this step, only of: {steps} (checkpoint.keep_last keeps more)"
        )
    weights = read_weights(folder, engine)
    return {name: value for name, value in weights.items() if name.startswith("lm.")}  # a value head is not exported


def _adapter_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the adapter's weights under their names in the wrapped model."""
    from safetensors.torch import load_file

    check_model_folder(folder, "model")
    weights = load_file(folder / "adapter_model.safetensors")
    named = {}
    for name, value in weights.items():
        inner = name.removeprefix("base_model.model.")
        for kind in ("lora_A", "lora_B"):
            inner = inner.replace(f".{kind}.weight", f".{kind}.default.weight")
        module, _, leaf = inner.rpartition(".")
        named[f"lm.{inner}" if ".lora_" in inner else f"lm.{module}.modules_to_save.default.{leaf}"] = value
    return named


def _rebuild(
    run: Path,
    config: DictConfig,
    weights: dict[str, torch.Tensor],
    about: dict[str, Any],
    folder: Path,
    allowed_hosts: list[str] | None,
) -> None:
    algorithm = configs.build(config, "algo")
    _, chat = load_chat_format(config.model, scores=algorithm.needs.main == "reward_model")
    hello = [{"role": "user", "content": "Hello."}]
    prompts = chat.encode_prompts([chat.render(hello)])
    chat.encode_replies([chat.render(hello, "Hello.")], prompts)  # registers the token that ends a reply
    on_gpu = bool(read_environment(run).get("gpus"))
    dtype = model_dtype(config.model, torch.device("cuda" if on_gpu else "cpu"))
    wrapper = load_model(config, algorithm, torch.float32, None, pad_token_id=chat.tokenizer.pad_token_id)
    trained = {name: value.detach() for name, value in wrapper.named_parameters() if value.requires_grad}
    if wrapper.adapter is not None:
        _check_base(run, config.model, config.paths.cache)
        # Only trained weights, because a quantised base also has scales.
        weights = {name: weights[name] for name in trained.keys() & weights.keys()}
    try:
        result = wrapper.load_state_dict(weights, strict=False)
        wrong = [*result.unexpected_keys, *(trained.keys() & set(result.missing_keys))]
    except RuntimeError as error:  # different shapes
        wrong = [str(error).splitlines()[-1].strip()]
    if wrong:
        raise UserError(
            f"the weights do not fit {config.model.path} ({wrong[0]}): did this model change since the run began?"
        )
    about["system_prompt"] = chat.system_prompt
    chosen = trained.items() if saves_adapter(config.model) else merged_parameters(wrapper.lm)
    plain = {name.removeprefix("lm."): value.to(dtype, copy=True) for name, value in chosen}
    companions = Companions(chat, config.model, model_card(config, about), about, allowed_hosts)
    fill_folder(draft_of(folder), wrapper, plain, dtype, companions)
    replace_directory(draft_of(folder), folder)


def _check_base(run: Path, model: DictConfig, cache: str) -> None:
    """Raise if the base model changed since training, because an adapter fits only the weights it was trained on."""
    trained_on = read_environment(run).get("weights")
    if trained_on and trained_on != weights_id(model, cache):
        raise UserError(f"{model.path}: changed since {run} began, so the adapter no longer fits: restore the model")


def push(folder: Path, repository: str, public: bool) -> str:
    """Upload `folder` to the hub repository, private unless `public`; return its address.

    Raises:
        UserError: if the hub cannot be reached or the token may not write there, the repository exists with the other
            visibility, or the folder holds an adapter of a base on this machine.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    adapter = read_json(folder / "adapter_config.json") or {}
    if str(adapter.get("base_model_name_or_path", "")).startswith("/"):
        raise UserError(
            f"push={repository}: this adapter refers to its base by a path on this machine, so nobody else could load it; "
            "add merge=true"
        )
    api = HfApi()
    try:
        url = api.create_repo(repository, private=not public, exist_ok=True)
        _check_visibility(repository, public, bool(api.repo_info(repository).private))
        message = "Upload by psychocounsel"
        kept = [ModelDir(folder).confidential.name]  # other hosts are nobody's business
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            commit_message=message,
            delete_patterns=[*_WEIGHTS],
            ignore_patterns=kept,
        )
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"push={repository}: {_reason(error)}") from error
    return str(url)


def _check_visibility(repository: str, public: bool, is_private: bool) -> None:
    if not public and not is_private:
        raise UserError(
            f"push={repository}: exists and is public; add public=true if you want that, or use another name"
        )
    if public and is_private:
        raise UserError(
            f"push={repository}: exists and is private, and making it public would show its whole history; "
            "make it public on its page, leave out public=true, or use another name"
        )


def _reason(error: BaseException) -> str:
    """Return one line that explains why the hub refused the upload or could not be reached."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    reason = shown(str(error), secret=get_token()) or type(error).__name__
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if status in (401, 403) or isinstance(error, LocalTokenNotFoundError):
        return f"{reason}; this needs a token that may write there: `hf auth login`, or HF_TOKEN"
    return reason
