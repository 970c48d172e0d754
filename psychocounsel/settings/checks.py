"""Checks of a whole configuration, run before any job starts and without torch."""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import outputs_of, run_of_model
from psychocounsel.rundir.run_config import is_run
from psychocounsel.rundir.trust import refuse_untrusted_model
from psychocounsel.settings.reward_sections import path_is, reward_sections
from psychocounsel.settings.schema import suggestion
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import PACKAGE
from psychocounsel.storage.weight_files import refuse_gguf


def require_paths(config: DictConfig) -> None:
    for key in ("output", "cache"):
        if not str(OmegaConf.select(config, f"paths.{key}") or ""):
            raise UserError(f"paths.{key} is empty: give a folder, or unset PSYCHOCOUNSEL_{key.upper()}")


def check_length(config: DictConfig) -> None:
    """Raise UserError for a run with two lengths or without a length."""
    if config.max_steps is not None and config.epochs is not None:
        raise UserError(
            f"max_steps={config.max_steps} and epochs={config.epochs:g}: each sets the length of the run; leave one out, or "
            "give epochs=null where an experiment sets it"
        )
    if config.max_steps is None and config.epochs is None:
        raise UserError("epochs=null and max_steps=null: give one of them to set the length of the run")


def check_combinations(config: DictConfig, cluster: Any) -> None:
    """Refuse settings that contradict each other, and missing hardware or packages.

    Raises:
        UserError: naming the key and what to type instead.
    """
    if config.zero.offload_optimizer or config.zero.offload_parameters:
        if not cluster.gpus():
            raise UserError(
                "zero.offload_*=true moves state from GPU to CPU, but this machine has no GPU: use zero=0..3"
            )
        if config.zero.offload_parameters and config.zero.stage not in (3, "auto"):
            raise UserError(f"zero.offload_parameters=true needs zero.stage=3, not {config.zero.stage}")
        if config.zero.stage == 0:
            raise UserError("zero.offload_optimizer=true needs zero.stage of 1 to 3, not 0")
    if config.model.attention == "flex" and not cluster.gpus():
        raise UserError("model.attention=flex: FlexAttention has no backward pass without a GPU; use varlen or dense")
    if config.model.kernels == "liger":
        _check_liger(bool(cluster.gpus()))
    if config.micro_batch_tokens != "auto" and config.micro_batch_tokens < config.max_length:
        raise UserError(
            f"micro_batch_tokens={config.micro_batch_tokens} is smaller than max_length={config.max_length}: "
            f"a sequence must fit; use micro_batch_tokens={config.max_length} or more"
        )
    if config.max_prompt_length and config.max_prompt_length >= config.max_length:
        raise UserError(
            f"max_prompt_length={config.max_prompt_length} must be less than max_length={config.max_length}"
        )
    _check_callbacks(config)
    _check_adapter(config)
    check_model_paths(config, "model", config.model)


def _check_liger(has_gpus: bool) -> None:
    if not has_gpus:
        raise UserError("model.kernels=liger: Liger's kernels need a GPU, and this machine has none; use plain")
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError(
            "model.kernels=liger: the package liger-kernel is missing: pip install -c constraints.txt -e '.[liger]', or use "
            "model.kernels=plain"
        )


def check_needs(algorithm: Any) -> None:
    """Raise UserError for an algorithm whose `needs` this engine cannot meet."""
    name, needs = type(algorithm).__name__, algorithm.needs
    lacking = sorted(needs.models - {"policy", "reference", "reward_model", "critic"})
    if lacking:
        raise UserError(f"algo={name}: needs {', '.join(lacking)}, which this version of the engine does not provide")
    if needs.data not in ("pairs", "completions", "labelled", "prompts"):
        raise UserError(
            f"algo={name}: needs.data={needs.data!r} must be 'pairs', 'completions', 'labelled' or 'prompts'"
        )
    if len(needs.models & {"policy", "reward_model"}) != 1 or needs.models == {"reward_model", "reference"}:
        raise UserError(f"algo={name}: needs.models must contain policy, or only reward_model")
    if needs.rollouts != (algorithm.round is not None):
        raise UserError(
            f"algo={name}: needs.rollouts={needs.rollouts} contradicts its round, which is {algorithm.round}; an algorithm "
            "with rollouts is a subclass of psychocounsel.algo.online.Online"
        )


def _check_callbacks(config: DictConfig) -> None:
    for name, callback in config.callbacks.items():
        target = callback.get("_target_") if OmegaConf.is_dict(callback) else None
        if not target:
            raise UserError(f"callbacks.{name}: needs a _target_, for instance {{_target_: my_module.MyCallback}}")
        try:
            found = importlib.util.find_spec(target.rpartition(".")[0])
        except (ImportError, ValueError):
            found = None
        if found is None:
            raise UserError(f"callbacks.{name}._target_={target}: no such module")


def _check_adapter(config: DictConfig) -> None:
    lora, quantise = config.model.lora, config.model.quantise
    targets = lora.targets
    if not isinstance(targets, str) and not (
        OmegaConf.is_list(targets) and targets and all(isinstance(name, str) for name in targets)
    ):
        raise UserError(f"model.lora.targets={targets}: give all-linear, or a list of layer names as [q_proj,v_proj]")
    if not lora.rank and (lora.alpha != 32 or lora.dropout or targets != "all-linear"):
        raise UserError(
            "model.lora.alpha, dropout and targets shape an adapter, but no adapter is trained: give model.lora.rank as well"
        )
    if lora.merge and not lora.rank:
        raise UserError(
            "model.lora.merge=true merges an adapter, but no adapter is trained: give model.lora.rank as well"
        )
    if not quantise:
        return
    if not lora.rank:
        raise UserError(f"model.quantise={quantise}: quantised weights cannot be trained; give model.lora.rank as well")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"model.quantise={quantise} needs bitsandbytes: pip install -c constraints.txt -e '.[qlora]'")
    if config.zero.stage == 3 or config.zero.offload_parameters:
        asked = "zero=3" if config.zero.stage == 3 else "zero.offload_parameters=true, which needs zero=3"
        raise UserError(
            f"model.quantise={quantise} and {asked}: quantised weights are not partitioned; use zero=0, 1 or 2"
        )
    if lora.merge:
        raise UserError(
            f"model.lora.merge=true would merge into weights rounded by model.quantise={quantise}: leave it out, and merge "
            "into the full weights afterwards with `python -m psychocounsel.export RUN merge=true`"
        )


def check_data(config: DictConfig) -> None:
    data = config.data
    for name, weight in data.principle_weights.items():
        if name not in PRINCIPLES:
            raise UserError(f"data.principle_weights.{name}: no such principle; {suggestion(name, list(PRINCIPLES))}")
        if weight < 0:
            raise UserError(f"data.principle_weights.{name}={weight}: must be at least 0")
    if data.principle_weights and not any(data.principle_weights.values()):
        raise UserError("data.principle_weights are all 0: give at least one principle a weight")
    if len(data.rating_range) != 2 or data.rating_range[0] >= data.rating_range[1]:
        raise UserError(f"data.rating_range={data.rating_range}: give the lowest and the highest rating, as [1,5]")
    if data.limit and data.fraction:
        raise UserError("data.limit and data.fraction exclude each other: keep one")
    own_source = bool(data.get("_target_"))
    if own_source and data.mix:
        raise UserError(
            f"data.mix: cannot be mixed with rows that {data._target_} reads; use data=local for the mixture"
        )
    if own_source:
        build(config, "data").check()
    elif not data.mix and not data.path:
        raise UserError("data.path is not set: add data.path=FILE_OR_FOLDER, or choose data=sample")
    for index, entry in enumerate(data.mix):
        if bool(entry.rows) == bool(entry.weight):
            raise UserError(f"data.mix[{index}]: give either rows or weight, for instance {{name: sample, rows: 100}}")
        if not entry.path:
            raise UserError(f"data.mix[{index}]: {entry.name} has no path of its own; give path=FILE_OR_FOLDER as well")
        if not is_made_before(config, entry.path):
            check_local_path(entry.path, f"data.mix[{index}].path")
    if len({bool(entry.weight) for entry in data.mix}) > 1:
        raise UserError("data.mix: give rows for every entry or weight for every entry, not both kinds")
    source = data.eval_path or ("data.mix" if data.mix else data.path)
    if data.eval_split and not own_source and (source == "data.mix" or _is_one_part(source)):
        raise UserError(f"data.eval_split={data.eval_split}: {source} has no splits; give data.eval_path=FILE instead")
    if data.split != "train" and not own_source and not data.mix and _is_one_part(data.path):
        raise UserError(f"data.split={data.split}: {data.path} has no splits; leave it out")
    for key in ("path", "eval_path"):
        if not (data[key] and is_made_before(config, data[key])):
            check_local_path(data[key], f"data.{key}")


def _is_one_part(path: str) -> bool:
    """Return True if the data source at `path` has no splits."""
    return path == "builtin:sample" or Path(path).expanduser().is_file()


def check_reward_paths(config: DictConfig) -> None:
    for key, section in reward_sections(config):
        if path_is(section) != "nothing":
            check_model_paths(config, key, section)


def check_model_paths(config: DictConfig, group: str, section: DictConfig) -> None:
    """Check the path of the model at key `group`. Only a reward model may be an adapter, because it is not trained.

    Raises:
        UserError: if the path or its chat template does not exist, or is no model that can be used here.
    """
    if section.path and is_made_before(config, section.path):
        return
    check_local_path(section.path, f"{group}.path", folder=True)
    if section.path and (run := run_of_model(Path(section.path).expanduser().absolute())) and is_run(run):
        refuse_untrusted_model(run)
    if group == "model" and (Path(section.path).expanduser() / "adapter_config.json").is_file():
        run = run_of_model(Path(section.path)) or section.path
        raise UserError(
            f"model.path={section.path}: is a LoRA adapter; train the merged model instead, which "
            f"`python -m psychocounsel.export {run} merge=true` writes"
        )
    if section.chat_template:
        check_local_path(section.chat_template, f"{group}.chat_template", must_exist=True)


def is_made_before(config: DictConfig, path: str) -> bool:
    """Return True if `path` does not exist yet and lies in the output of a run named in `after`, which will make it."""
    return not Path(path).expanduser().exists() and is_of_earlier_run(config, path)


def is_of_earlier_run(config: DictConfig, path: str) -> bool:
    """Return True if `path` lies in the output of a run named in `after`."""
    named = config.get("after") if OmegaConf.is_list(config.get("after")) else []  # `after` is not checked yet
    place, *parents = (Path(os.path.abspath(os.path.expanduser(str(each)))) for each in (path, *named))
    return any(place.is_relative_to(made) for parent in parents for made in outputs_of(parent))


def check_shipped(value: str, key: str) -> None:
    """Raise UserError if `value` is a `builtin:` name that the package does not contain."""
    models = [f"builtin:{folder.name}" for folder in sorted(PACKAGE.joinpath("model", "shipped").iterdir())]
    names = ["builtin:sample"] if key.startswith(("data.", "audit.")) else models
    if value not in names:
        raise UserError(f"{key}={value}: does not ship with the package; these do: {', '.join(names)}")


_LOOKS_LOCAL = re.compile(r"^[./~]|\.(jsonl?|parquet|jinja|csv|tsv|gz)$")


def check_local_path(value: str | None, key: str, folder: bool = False, must_exist: bool = False) -> None:
    """Check that a local path exists; a missing path of the form `org/name` is taken for a hub id.

    Raises:
        UserError: if the path does not exist, or if `folder` is set and the path is not a model's folder.
    """
    if not value:
        return
    if value.startswith("builtin:"):
        check_shipped(value, key)
        return
    path = Path(value).expanduser()
    if not path.exists() and (must_exist or _LOOKS_LOCAL.search(value) or value.count("/") != 1):
        raise UserError(f"{key}={value}: no such file or folder (a hub id has the form ORG/NAME)")
    if folder:
        refuse_gguf(value, key)
    if folder and path.is_file():
        raise UserError(f"{key}={value}: is a file; give the folder that contains config.json")
    if folder and path.is_dir() and not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"{key}={value}: the folder contains no config.json, so it is not a model")


def make_paths_absolute(config: DictConfig) -> None:
    """Make paths absolute, because jobs may start in another directory; those of models and data only if they exist."""
    models = [section for _, section in reward_sections(config)] + ([config.model] if "model" in config else [])
    data = [config.data] if "data" in config else []
    for node, key in [
        *((model, key) for model in models for key in ("path", "chat_template") if key in model),
        *((each, key) for each in data for key in ("path", "eval_path")),
        *((entry, "path") for each in data for entry in each.mix),
        *((entry, "path") for entry in (config.audit.against if "audit" in config else [])),
    ]:
        value = node[key]
        if value and is_of_earlier_run(config, value):  # not resolved, because the best run of a stage is a link
            node[key] = os.path.abspath(os.path.expanduser(value))
        elif value and not value.startswith("builtin:") and Path(value).expanduser().exists():
            node[key] = str(Path(value).expanduser().resolve())
    for key in ("output", "cache"):
        config.paths[key] = os.path.abspath(os.path.expanduser(config.paths[key]))
    for key in filter(config.get, ("run_dir", "sweep_dir", "out", "remove")):
        config[key] = os.path.abspath(os.path.expanduser(config[key]))
    if "after" in config:
        config.after = [os.path.abspath(os.path.expanduser(parent)) for parent in config.after]
