"""Contestants of an evaluation: `model` and `against` become the group `contestants` (settings of each model), without torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from psychocounsel.asking.model_groups import Preset
from psychocounsel.errors import UserError
from psychocounsel.reward.sections import filled, loaded, names_a_path, own_keys
from psychocounsel.rundir.run_config import read_section
from psychocounsel.rundir.sweep import telling_name
from psychocounsel.rundir.trained_runs import run_of
from psychocounsel.settings.paths import is_of_earlier_run, model_at
from psychocounsel.storage.files import absolute, expanded, folder_of
from psychocounsel.storage.weight_files import is_reward_model

TARGET = "psychocounsel.evaluation.contestants.settings.Contestants"
REPLY_FILE = "psychocounsel.evaluation.contestants.settings.ReplyFile"
_TABLES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
_FIRST_SHIPPED = "builtin:tiny"  # all other shipped models were trained from it
_SAMPLING = ("temperature", "top_p", "max_tokens")
_FORMS = "a run, a folder, a hub id, a file of replies or an address; or a mapping, as {use: openai, model: NAME}"


def resolve_contestants(composed: DictConfig, preset: Preset, files: bool = True) -> None:
    """Replace `model` and `against` by `contestants`, resolved to settings because the worker does not compose.

    Several paths of one entry are models trained with equal settings and different seeds. `preset` loads a file of conf/writers.
    `files`: a contestant may be a file of replies.

    Raises:
        UserError: for an entry of another form, or two entries with one name.
    """
    sampling = {key: composed.replies[key] for key in _SAMPLING}
    entries = list[tuple[DictConfig, list[DictConfig]]]()
    _choose_base(composed)
    for key, entry in _entries(composed):
        paths = entry.get("path")
        listed = list(paths) if OmegaConf.is_list(paths) else [paths]
        if not listed:
            raise UserError(f"{key}.path=[]: give one path or more")
        entry_members = [_member(f"{key}.path", entry, path, sampling, preset, composed, files) for path in listed]
        entries.append((entry, entry_members))
    names = _names(entries)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"against: two contestants are called {twice}; give one a name, as {{path: PATH, name: NAME}}")
    members, settings = list[DictConfig](), list[str]()
    for name, (_, entry_members) in zip(names, entries, strict=True):
        for number, member in enumerate(entry_members, 1):
            member.name = name if len(entry_members) == 1 else f"{name}-{number}"
            members.append(member)
            settings.append(name)
    with open_dict(composed):
        composed.contestants = {"_target_": TARGET, "name": "contestants", "members": members, "settings": settings}
        del composed["model"], composed["against"]


def resolve_reward_judges(composed: DictConfig, preset: Preset) -> None:
    """Resolve the reward models of judges: a path, a name of `conf/reward/`, or a mapping with the key `use`.

    A judge without a name gets that of its path, otherwise that of the file.

    Raises:
        UserError: for a reward of another form.
    """
    judge = composed.get("judge")
    if not OmegaConf.is_dict(judge):
        return
    unnamed = list[tuple[DictConfig, str]]()
    for section in judge.members if judge.get("members") is not None else [judge]:
        if "reward" not in section or (OmegaConf.is_dict(section.reward) and "_target_" in section.reward):
            continue
        reward = section.reward
        if isinstance(reward, str):
            reward = OmegaConf.create({"use": "local", "path": reward} if names_a_path(reward) else {"use": reward})
        if not OmegaConf.is_dict(reward) or "use" not in reward:
            raise UserError(
                "judge.reward: is a path, a name in conf/reward, or a mapping, as {use: local, path: RUN/model, dtype: bf16}"
            )
        base = loaded("judge.reward", "reward", str(reward.use), preset)
        with open_dict(section):
            if not isinstance(section.name, str):
                section.name = reward.get("name", base.get("name", reward.use))
                if "name" not in reward and isinstance(reward.get("path"), str):
                    unnamed.append((section, reward.path))
            section.reward = filled("judge.reward", own_keys(reward), base)
    _name_by_paths(unnamed)


def _name_by_paths(judges: list[tuple[DictConfig, str]]) -> None:
    """Name reward models as judges by their paths; equal names get their parent folder's as a prefix."""
    names = [_name(path) for _, path in judges]
    for name, (section, path) in zip(names, judges, strict=True):
        section.name = section.reward.name = _name(path, parent=True) if names.count(name) > 1 else name


def contestant_paths(plain: DictConfig) -> list[tuple[str, Any]]:
    """Return key and model of each contestant, in the user's words; a file of replies counts by its name."""
    if plain.get("contestants") is None:
        return []
    members, settings = plain.contestants.members, plain.contestants.settings
    count = sum(name == settings[0] for name in settings)
    return [
        ("model.path" if index < count else "against", member.get("model") or member.get("name"))
        for index, member in enumerate(members)
    ]


def start_of(path: Any) -> dict[str, Any] | None:
    """Return the model that training started from, as an entry of `against`; None if it is unknown.

    It is known for the model of a run, and for shipped models.
    """
    if not isinstance(path, str) or path == _FIRST_SHIPPED:
        return None
    if path.startswith("builtin:"):
        return {"path": _FIRST_SHIPPED}
    if (run := run_of(path)) is None:
        return None
    model = read_section(run, "model")
    return {key: model[key] for key in ("path", "revision", "chat_template", "template_args") if model.get(key)}


def _choose_base(composed: DictConfig) -> None:
    """Replace `against=auto` by the model that the evaluated one was trained from, or by null if it is unknown.

    Raises:
        UserError: if several evaluated models started from different ones, or a start does not exist (any more, or yet).
    """
    if composed.against != "auto":
        return
    paths = composed.model.get("path")
    paths = list(paths) if OmegaConf.is_list(paths) else [paths]
    starts = [start_of(path) for path in paths]
    if later := next((path for path in paths if isinstance(path, str) and _is_unborn(composed, path)), None):
        raise UserError(f"against=auto: {later} does not exist yet, so its base is unknown; give against=BASE, or null")
    if any(start != starts[0] for start in starts):
        raise UserError(
            "against=auto: the models of model.path did not start from one model; give against=BASE, or null"
        )
    start = starts[0] if starts else None
    if start and start["path"].startswith("/") and not Path(start["path"]).exists():
        raise UserError(
            f"against=auto: {paths[0]} was trained from {start['path']}, which no longer exists; give against=BASE, or null"
        )
    use = composed.model.get("use")
    composed.against = start and start | ({"use": use} if use else {})


def _is_unborn(composed: DictConfig, path: str) -> bool:
    return is_of_earlier_run(composed, path) and run_of(absolute(path)) is None


def _entries(composed: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    """Yield each contestant with its key: the model, then its opponents."""
    yield "model", composed.model
    against = composed.against
    listed = list(against) if OmegaConf.is_list(against) else [] if against is None else [against]
    for number, opponent in enumerate(listed):
        entry = OmegaConf.create({"path": opponent}) if isinstance(opponent, str) else opponent
        if not OmegaConf.is_dict(entry):
            raise UserError(f"against: {opponent} is not a contestant; give {_FORMS}")
        yield ("against" if len(listed) == 1 else f"against[{number}]"), entry


def _member(
    key: str,
    entry: DictConfig,
    path: Any,
    sampling: dict[str, Any],
    preset: Preset,
    composed: DictConfig,
    files: bool,
) -> DictConfig:
    own = {str(name): entry[name] for name in entry if name not in ("path", "use", "name") and entry[name] is not None}
    use = entry.get("use")
    if path is None and not use:
        raise UserError(f"{key} is not set: give {_FORMS}")
    if path is not None and not isinstance(path, str):
        raise UserError(f"{key}={path}: is not a path; give {_FORMS}")
    if path is not None and path.lower().endswith(_TABLES):
        if not files:
            raise UserError(f"{key}={path}: a file of replies cannot answer; give a model")
        return _reply_file(key, path)
    base = preset("writers", str(use) if use else _usual(path))
    if "members" in base:
        raise UserError(f"{key}: {use} has members itself; name its members in against=[...]")
    if path is not None:
        own |= _placed(key, path, base, own, composed)
    base.update(sampling)
    merged = filled(key.removesuffix(".path"), own, base)
    with open_dict(merged):
        merged.name = _name(path) if path and "addresses" not in own else str(own.get("model") or base.get("name"))
    return merged


def _names(entries: list[tuple[DictConfig, list[DictConfig]]]) -> list[str]:
    """Return the name of each contestant, as typed or by its path; equal names of folders get their parent's as a prefix."""
    names = [str(entry.get("name") or members[0].name) for entry, members in entries]
    longer = list[str]()
    for name, (entry, _) in zip(names, entries, strict=True):
        path = entry.get("path")
        is_free = isinstance(path, str) and not entry.get("name") and name == _name(path)
        longer.append(_name(path, parent=True) if is_free and names.count(name) > 1 else name)
    return longer


def _usual(path: Any) -> str:
    """Return the file of conf/writers that fits a path."""
    return "local_vllm" if str(path).startswith(("http://", "https://")) else "transformers"


def _placed(key: str, path: str, base: DictConfig, own: dict[str, Any], composed: DictConfig) -> dict[str, Any]:
    if path.startswith(("http://", "https://")):
        if not own.get("model"):
            raise UserError(f"{key}={path}: name the model that it serves: {{path: {path}, model: NAME}}")
        return {"addresses": [path]}
    if "model" in own:
        raise UserError(f"{key}={path}: path names the model already; leave out model={own['model']}")
    if "addresses" in base:
        raise UserError(f"{key}={path}: name a server's model by model=NAME; path is the server's address")
    if is_of_earlier_run(composed, path):  # it need not exist yet
        return {"model": absolute(path)}
    model = model_at(path, key, own.get("revision"))
    folder = folder_of(model)
    if is_reward_model(folder):
        measure = f"psychocounsel evaluate evaluation=reward reward.path={path}"
        raise UserError(f"{key}={path}: is a reward model, which writes no replies; `{measure}` measures it")
    return {"model": str(folder.resolve()) if expanded(model).exists() else model}


def _reply_file(key: str, path: str) -> DictConfig:
    file = expanded(path)
    if not file.is_file():
        raise UserError(f"{key}={path}: no such file of replies")
    settings = {"_target_": REPLY_FILE, "name": file.stem, "model": str(file.resolve())}
    return OmegaConf.create(settings)


def _name(path: str, parent: bool = False) -> str:
    """Return a path's name: `beta` for runs/beta and runs/beta/model, `tiny` for builtin:tiny, `Qwen3-8B` for Qwen/Qwen3-8B."""
    if path.startswith("builtin:"):
        return path.removeprefix("builtin:")
    return telling_name(Path(absolute(path)), parent)
