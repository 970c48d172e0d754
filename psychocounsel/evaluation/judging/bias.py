"""Warnings about judges that may be biased.

A judge is suspect if it is a contestant, belongs to a contestant's model family, labelled a contestant's training data,
or was the reward model, or the judge that gave the rewards, of a contestant's training.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig

from psychocounsel.asking.language_model import LanguageModel
from psychocounsel.data.privacy import paths_of
from psychocounsel.evaluation.judging.judges import RewardJudge
from psychocounsel.rundir.paths import AnnotationDir, RunDir
from psychocounsel.rundir.run_config import read_config
from psychocounsel.rundir.trained_runs import runs_of
from psychocounsel.settings.targets import build
from psychocounsel.storage.files import read_mapping

# Model families: each name marks the models of one maker's line.
_FAMILIES = (
    *("gpt", "claude", "gemini", "gemma", "llama", "qwen", "mistral", "deepseek", "phi", "smollm", "olmo"),
    *("command", "yi", "falcon", "granite", "nemotron", "kimi", "glm", "minimax", "grok"),
)
_ALIASES = {"mixtral": "mistral", "ministral": "mistral", "magistral": "mistral", "qwq": "qwen", "chatgpt": "gpt"}
_WORD = re.compile(r"[a-z]+")


def judge_warnings(config: DictConfig) -> Iterator[str]:
    """Yield one line for each reason to distrust a judge of this configuration."""
    contestants = build(config, "contestants").models()
    for judge in build(config, "judge").models():
        family, kin = family_of(judge), list[str]()
        for contestant in contestants:
            if not isinstance(judge, RewardJudge) and same_model(judge, contestant):
                yield f"warning: the judge {judge.name} is also a contestant: judges prefer their own replies"
            elif family and family == family_of(contestant):
                kin.append(contestant.name)
            yield from _of_training(judge, contestant)
        if kin:
            yield (
                f"warning: the judge {judge.name} is of one model family ({family}) with {', '.join(kin)}: judges tend to "
                "prefer their own family"
            )


def judge_roles(config: DictConfig) -> dict[str, list[str]]:
    """Return the roles that judges had in the training of contestants, by judge; judges without a role are omitted."""
    contestants = build(config, "contestants").models()
    roles = {
        judge.name: [role for contestant in contestants if (role := trained_by(judge, contestant))]
        for judge in build(config, "judge").models()
    }
    return {name: of_judge for name, of_judge in roles.items() if of_judge}


def training_warnings(config: DictConfig) -> Iterator[str]:
    """Yield one line for each judge of this configuration that had a role in the training of a contestant, if there are any."""
    if config.get("contestants") is None:
        return
    for judge in build(config, "judge").models():
        for contestant in build(config, "contestants").models():
            yield from _of_training(judge, contestant)


def _of_training(judge: LanguageModel, contestant: LanguageModel) -> Iterator[str]:
    if role := trained_by(judge, contestant):
        yield (
            f"warning: the judge {judge.name} {role}: a good result may only show that the contestant learned to please "
            "this judge"
        )


def same_model(judge: LanguageModel, contestant: LanguageModel) -> bool:
    """Return True if both have the same model name, which suggests that they are the same weights."""
    return bool(judge.model) and judge.model == contestant.model


def family_of(model: LanguageModel) -> str | None:
    """Return the model family of a judge or contestant; None if `family_in` does not recognise it."""
    if isinstance(model, RewardJudge):
        return family_in(str(model.reward.get("path") or ""))
    return family_in(str(model.model or ""))


def family_in(path: str) -> str | None:
    """Return the model family named in the last part of `path`, else by a local folder's config.json; None if unknown.

    The name comes first, because other makers' models have architectures such as Llama's.
    """
    file, names = Path(path) / "config.json", [Path(path).name]
    if path and file.is_file():
        names.append(str(read_mapping(file).get("model_type", "")))
    for name in names:
        words = [_ALIASES.get(word, word) for word in _WORD.findall(name.lower())]
        if family := next((family for family in _FAMILIES if any(_is_of(word, family) for word in words)), None):
            return family
    return None


def _is_of(word: str, name: str) -> bool:
    """Return True if `word` is a family's name or begins with it.

    Short names such as `yi` must match whole words, because too many words begin with them.
    """
    return word == name or (len(name) > 3 and word.startswith(name))


def trained_by(judge: LanguageModel, contestant: LanguageModel) -> str | None:
    """Return the role that the judge had in a contestant's training, for a message; None if no role is known.

    The contestant's run directory names its reward models and its training data.
    """
    configs = [read_config(run) for run in runs_of(contestant.model)]
    if isinstance(judge, RewardJudge):
        rewards = {_place(section.get("path")) for config in configs for section in _rewards(config)} - {None}
        trained = _place(judge.reward.get("path")) in rewards
        return f"was the reward model in the training of {contestant.name}" if trained else None
    asked = {str(section.judge.model) for config in configs for section in _rewards(config) if section.get("judge")}
    if judge.model and _place(judge.model) in map(_place, asked):
        return f"gave the rewards in the training of {contestant.name}"
    data = {path for config in configs for path in paths_of(config.data) if path}
    labellers = {name for path in data for name in labellers_of(Path(path))}
    return f"labelled the training data of {contestant.name}" if labellers & {judge.name, judge.model} else None


def _place(path: str | None) -> str | None:
    """Return the absolute path of a folder; names on the hub and names of shipped models stay unchanged."""
    return str(Path(path).resolve()) if path and Path(path).exists() else path


def _rewards(config: DictConfig) -> list[DictConfig]:
    if config.get("reward") is None:
        return []
    return [*config.reward.members] if "members" in config.reward else [config.reward]


def labellers_of(data: Path) -> set[str]:
    """Return the annotators of a dataset made by `annotate`: their names and the names of their models.

    The set is empty for other datasets.
    """
    folder = next((path for path in (data, data.parent, data.parent.parent) if RunDir(path).config.exists()), None)
    if folder is None or not AnnotationDir(folder).votes.exists():
        return set()
    annotator = read_config(folder).get("annotator")
    members = [] if annotator is None else [*annotator.members] if "members" in annotator else [annotator]
    return {str(member.get(key)) for member in members for key in ("name", "model") if member.get(key)}
