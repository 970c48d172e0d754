"""Typed options that have no effect in a run, because another choice disables them. They are refused, because they would mislead.

Each class lists in `unused` the options that its other settings disable.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from psychocounsel.errors import UserError
from psychocounsel.settings.compositions import parsed
from psychocounsel.settings.reward_sections import ranker_models, reward_sections
from psychocounsel.settings.sections.annotation_groups import MODEL_GROUPS
from psychocounsel.settings.sections.counterfactual_checks import idle_counterfactuals
from psychocounsel.settings.sections.evaluated_part import evaluated_part
from psychocounsel.settings.targets import build
from psychocounsel.settings.typed.chat_keys import is_chat
from psychocounsel.settings.typed.evaluate_keys import idle_sections

_NO_PRICE = "no model has an input_price or output_price; budget.calls limits calls"
_OF_PRIVACY = ("confidential", "allowed_hosts")  # they limit the hosts that any text is sent to


def typed_unused(
    config: DictConfig, overrides: Sequence[str], load_choice: Callable[[str, str], DictConfig]
) -> dict[str, str]:
    """Return each typed option that has no effect under the checked `config`, as typed, with the reason.

    Typed options are those on the command line and in the chosen experiment's file, which `load_choice` reads.
    """
    idle = dict(_unused(config))
    found = {}
    for key, text in _typed(overrides, load_choice):
        if reason := next((idle[each] for each in (key, *_above(key)) if each in idle), None):
            found[text] = reason
    return found


def refuse_unused(of_each_run: Sequence[dict[str, str]]) -> None:
    """Refuse options that have no effect in any run of a command.

    Raises:
        UserError: naming the option and the reason.
    """
    for text, reason in of_each_run[0].items():
        if all(text in each for each in of_each_run):
            raise UserError(f"{text}: has no effect, because {reason}; leave it out")


def _above(key: str) -> Iterator[str]:
    """Yield the sections that contain a key, the innermost first."""
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def _typed(overrides: Sequence[str], load_choice: Callable[[str, str], DictConfig]) -> Iterator[tuple[str, str]]:
    """Yield each key that was given a value, with its text as written."""
    for text in overrides:
        override = parsed(text)
        key, value = override.key_or_group.replace("/", "."), override.value()
        if override.is_delete():
            continue
        if key == "experiment" and value:
            content = load_choice("experiment", str(value))
            leaves = _leaves(OmegaConf.to_container(content))
            yield from ((each, f"{each} (in {text.lstrip('+')})") for each in leaves if each != "defaults")
        elif isinstance(value, dict):
            yield from ((f"{key}.{name}", text.lstrip("+")) for name in value)
        else:
            yield key, text.lstrip("+")


def _leaves(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all values in nested mappings."""
    for name, inner in node.items():
        yield from _leaves(inner, f"{prefix}{name}.") if isinstance(inner, dict) else [f"{prefix}{name}"]


def _unused(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield every option or whole section without effect, with the reason."""
    if is_chat(config):
        yield from _of_chat(config)
        return
    cluster = build(config, "cluster")
    yield from _within("cluster", cluster.unused())
    if "speeches" in config:
        yield from _of_annotation(config)
        return
    if "contestants" not in config and not [*ranker_models(config)]:
        yield (
            "cluster.internet",
            "only annotate, evaluations with contestants, and rankers in compare send requests to servers outside the cluster",
        )
    if "evaluation" in config:
        yield from _of_evaluation(config)
    if "algo" in config:
        algorithm = build(config, "algo")
        name = type(algorithm).__name__
        if "reward" not in config:
            yield "reward", f"{name} uses no reward model (eval.replies=true would)"
        if "rollout" not in config:
            yield "rollout", f"{name} learns only from the data and generates no replies (eval.replies=true would)"
        else:
            if not algorithm.needs.rollouts:
                yield "rollout.shown_prompts", f"{name} has no rounds whose replies could be shown"
            yield from _within("rollout", build(config, "rollout").unused(config))
        yield from _within("algo", algorithm.unused(config))
        yield from _of_model(config)
    if "audit" in config and "reward" not in config:
        yield "reward", "no reward model is named: add reward.path=FOLDER_OR_HUB_ID"
    yield from _of_rewards(config)
    if "counterfactuals" in config:
        yield from _within("counterfactuals", idle_counterfactuals(config))
    yield from _of_data(config)


def _of_annotation(config: DictConfig) -> Iterator[tuple[str, str]]:
    yield from _within("speeches", build(config, "speeches").unused())
    yield from _of_models(config)
    if not any(model.reads_prompts for model in build(config, "annotator").models()):
        for name in ("rubric", "examples", "retries"):
            yield f"scores.{name}", "annotator=rules reads no prompt"
    if all(model.prompt is not None for model in build(config, "writers").models()):
        yield "replies.system_prompt", "every writer has its own prompt"
    if config.pairs.test_fraction == 0:
        yield "pairs.split_seed", "pairs.test_fraction=0 makes no test split"
    if config.shards == 1:
        yield "clean_in_shards_above_mb", "shards=1 does not share the work"


def _of_chat(config: DictConfig) -> Iterator[tuple[str, str]]:
    models = [model for group in MODEL_GROUPS if group in config for model in build(config, group).models()]
    scored_elsewhere = "reward" in config and bool(build(config, "reward").receivers("reward"))
    if not scored_elsewhere and not any(model.is_third_party() for model in models):
        yield "crisis_to_third_parties", "no model belongs to a third party"
    yield from _of_groups(config)
    if "annotator" not in config:
        yield "rubric", "only an annotator uses it: add annotator=NAME"
    elif not any(model.reads_prompts for model in build(config, "annotator").models()):
        yield "rubric", "annotator=rules reads no prompt"
    yield from _of_rewards(config)


def _of_models(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield idle options of evaluations that use language models."""
    yield from _of_groups(config)
    models = [model for group in MODEL_GROUPS if group in config for model in build(config, group).models()]
    if config.crisis_to_third_parties and not any(model.is_third_party() for model in models):
        yield "crisis_to_third_parties", "no model belongs to a third party"
    if config.budget.cost is not None and not any(model.input_price or model.output_price for model in models):
        yield "budget.cost", _NO_PRICE
    if config.shards > 1 and not hasattr(build(config, "cluster"), "internet"):
        yield "shards", "only cluster=slurm shares the work"


def _of_groups(config: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield options of language models that their other settings disable."""
    for group in MODEL_GROUPS:
        if group in config:
            yield from _within(group, build(config, group).unused())


def _of_rewards(config: DictConfig) -> Iterator[tuple[str, str]]:
    for key, section in reward_sections(config):
        if "revision" in section and not _is_on_hub(section.path):
            yield f"{key}.revision", f"{key}.path is not a repository of the hub"


def _of_evaluation(config: DictConfig) -> Iterator[tuple[str, str]]:
    evaluation = build(config, "evaluation")
    for name in idle_sections(evaluation):
        yield name, f"evaluation={evaluation.name} does not read it"
    yield from _within("evaluation", evaluation.unused(config))
    yield from evaluation.unused_sections(config).items()
    if "contestants" in config:
        yield from _of_models(config)
    elif "budget" in evaluation.sections:
        rankers = [section for _, section in ranker_models(config)]
        if not rankers:
            yield "budget", "compare contains no language model that ranks ({use: llm, judge: ...})"
        elif not any(section.get("input_price") or section.get("output_price") for section in rankers):
            yield "budget.cost", _NO_PRICE


def _within(group: str, unused: dict[str, str]) -> Iterator[tuple[str, str]]:
    return ((f"{group}.{name}", reason) for name, reason in unused.items())


def _of_model(config: DictConfig) -> Iterator[tuple[str, str]]:
    if not _is_on_hub(config.model.path):
        yield "model.revision", "model.path is not a repository of the hub"
    if not config.model.lora.rank:
        for name in ("alpha", "dropout", "targets"):
            yield f"model.lora.{name}", "without model.lora.rank no adapter is trained"


def _of_data(config: DictConfig) -> Iterator[tuple[str, str]]:
    data = config.data
    if "evaluation" in config and (instead := (evaluation := build(config, "evaluation")).instead_of_data):
        reason = f"evaluation={evaluation.name} reads {instead} and no data"
        yield from ((f"data.{name}", reason) for name in data if name not in _OF_PRIVACY)
        return
    if data.mix:
        same = [entry for entry in data.mix if entry.path == data.path]  # given by `path: ${data.path}`
        for name, unset in (("path", None), ("split", "train"), ("revision", None)):
            if data[name] == unset or all(entry[name] != data[name] for entry in same):
                yield f"data.{name}", "data.mix gives the training rows"
    elif not data.mix and not _is_on_hub(data.path):
        yield "data.revision", "data.path is not a dataset of the hub"
    if not _is_on_hub(data.eval_path):
        yield "data.eval_revision", "data.eval_path is not a dataset of the hub"
    own_held_out = data.eval_path or data.eval_split
    if own_held_out:
        yield "data.dev_fraction", "data.eval_path or data.eval_split gives the held-out rows"
    if not (data.limit or data.fraction or data.mix) and (own_held_out or not data.dev_fraction):
        yield "data.split_seed", "nothing is drawn at random: all rows are used, and no prompt is held out"
    if data.min_gap is None:
        yield "data.gap", "it is the scale of data.min_gap, which is not set"
    if "algo" not in config:
        yield "data.balance", "only training weights pairs"
        yield "data.swapped", "only training adds pairs"
        yield "data.soft_labels", "only training uses soft labels"
    if "contestants" in config:
        yield "data.system_prompt", "contestants get replies.system_prompt"
    if "part" in config:
        yield "data.too_long", "an evaluation shortens no replies"
        if evaluated_part(config).name == "held_out":
            for name in ("limit", "fraction"):
                yield f"data.{name}", "it selects training rows, and the held-out part is evaluated; use limit"


def _is_on_hub(path: Any) -> bool:
    return bool(path) and not str(path).startswith("builtin:") and not Path(str(path)).expanduser().exists()
