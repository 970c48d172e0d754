"""Settings that differ between the runs of a report, and the runs' titles, which are made of them."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from psychocounsel.reporting.material import EVALUATION, TRAINING, RunMaterial
from psychocounsel.rundir.identity import defining
from psychocounsel.rundir.sweep import key_of, telling_name

_SEED = "seed"
_LONGEST = 60  # characters of a value
_LONGEST_TITLE = 80  # characters of an evaluation's title, which is repeated in each row of its tables
_EVALUATED = ("contestants.", "reward.", "model.")  # keys by which an evaluation names the model under evaluation
Flat = dict[str, Any]


def with_settings(runs: Sequence[RunMaterial], typed: Mapping[Path, str]) -> list[RunMaterial]:
    """Return the runs with `settings` and unique titles. `typed` holds the overrides by which a sweep lists each run.

    Training runs are compared with training runs, and evaluations with those of the same name. A key is a setting if it was typed
    and its values differ. A key that was not typed counts only if it differs between runs that are equal in all settings found
    so far; so `model.license` is omitted where `model` already tells the runs apart.

    An evaluation of a run of this report also gets that run's settings and seed.
    """
    by_id = {id(run): run for run in runs}
    for group in _groups(runs):
        for run, settings in zip(group, _settings(group, typed), strict=True):
            by_id[id(run)] = replace(run, settings=settings)
    known = [by_id[id(run)] for run in runs]
    parents = {run.path: run for run in known if run.kind == TRAINING}
    return _titled([_of_parent(run, _parent(run, parents)) for run in known], len({run.stage for run in runs}) > 1)


def _groups(runs: Sequence[RunMaterial]) -> Iterator[list[RunMaterial]]:
    groups = defaultdict[tuple[str, str], list[RunMaterial]](list)
    for run in runs:
        groups[run.kind, run.what if run.kind == EVALUATION else ""].append(run)
    yield from groups.values()


def _settings(runs: Sequence[RunMaterial], typed: Mapping[Path, str]) -> list[dict[str, str]]:
    overrides = [typed.get(run.path, run.overrides).split() for run in runs]
    flats = [_flat(run) or _of_texts(texts) for run, texts in zip(runs, overrides, strict=True)]
    shown = [
        key for key in dict.fromkeys(key_of(text) for texts in overrides for text in texts) if _differs(key, flats)
    ]
    shown.sort(key=lambda key: "." in key)  # groups first: algo=dpo, algo.beta=0.1
    classes = _classes(flats, shown)
    for key in _others(flats, shown):
        if any(_differs(key, members) for members in classes):
            shown.append(key)
            classes = _classes(flats, shown)
    return [{key: _text(flat[key]) for key in shown if key in flat} for flat in flats]


def _flat(run: RunMaterial) -> Flat:
    """Return the keys that define the run, without the seed. Groups have a key as they would be typed (`algo`, `model`)."""
    if not run.config:
        return {}
    config = {key: value for key, value in run.config.items() if key not in (_SEED, "settled")}
    flat = defining(config)
    for group, section in config.items():
        if isinstance(section, Mapping) and any(key.startswith(f"{group}.") for key in flat):
            name = run.what if group == "algo" else section.get("name")
            if name is not None:
                flat[group] = name
    return _with_contestants(flat)


def _with_contestants(flat: Flat) -> Flat:
    """Return the keys with contestants named as on the command line: `model` is evaluated, `against` lists the others."""
    model, *others = flat.pop("contestants.settings", None) or [None]
    return {**flat, **({"model": model} if model else {}), **({"against": ", ".join(others)} if others else {})}


def _of_texts(overrides: Sequence[str]) -> Flat:
    """Return the keys and values of overrides, for a run that has no configuration yet."""
    values = {key_of(text): text.partition("=")[2] for text in overrides if "=" in text}
    return {key: value for key, value in values.items() if key != _SEED}


def _others(flats: Sequence[Flat], shown: Sequence[str]) -> list[str]:
    """Return the keys that were not typed, names of groups first, because a group's name implies its other keys."""
    keys = dict.fromkeys(key for flat in flats for key in flat if key not in shown)
    return sorted(keys, key=lambda key: (key.count("."), key.endswith("_target_")))


def _differs(key: str, flats: Sequence[Flat]) -> bool:
    return len({_text(flat[key]) if key in flat else None for flat in flats}) > 1


def _classes(flats: Sequence[Flat], keys: Sequence[str]) -> list[list[Flat]]:
    """Return groups of runs that are equal in `keys`; a run without an equal is omitted."""
    classes = defaultdict[tuple[Any, ...], list[Flat]](list)
    for flat in flats:
        classes[tuple(_text(flat.get(key)) for key in keys)].append(flat)
    return [members for members in classes.values() if len(members) > 1]


def _text(value: Any) -> str:
    """Return a value as it is typed. A path is shortened to its distinctive name, a long text to its beginning."""
    text = value if isinstance(value, str) else json.dumps(value)
    if text.startswith("/"):
        text = telling_name(Path(text))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _parent(run: RunMaterial, parents: Mapping[Path, RunMaterial]) -> RunMaterial | None:
    """Return the training run of this report whose model the evaluation evaluates, or None."""
    if run.kind != EVALUATION:
        return None
    try:
        path = _evaluated_path(run.config)
    except (KeyError, TypeError, IndexError, AttributeError):
        return None
    if not path or not path.startswith("/"):
        return None
    place = Path(path).resolve()  # the best run of a stage is named by a link
    return next((parents[folder] for folder in (place, *place.parents) if folder in parents), None)


def _evaluated_path(config: Mapping[str, Any]) -> str | None:
    """Return the path of the first contestant's model, or of the reward model that scores."""
    contestants = config.get("contestants")
    if contestants is None:
        return str(config["reward"]["path"])
    members = {member["name"]: member.get("model") for member in contestants.get("members", [contestants])}
    return members.get(contestants["settings"][0], next(iter(members.values())))


def _of_parent(run: RunMaterial, parent: RunMaterial | None) -> RunMaterial:
    if parent is None:
        return run
    own = {key: text for key, text in run.settings.items() if not f"{key}.".startswith(_EVALUATED)}
    return replace(run, settings={**parent.settings, **own}, seed=parent.seed, evaluates=parent.path)


def _titled(runs: Sequence[RunMaterial], several_stages: bool) -> list[RunMaterial]:
    """Return the runs with unique titles: settings and seed; if these are not unique, the folder or the path too."""
    seeds = len({run.seed for run in runs if run.seed is not None}) > 1
    titles = [_title(run, seeds, several_stages) for run in runs]
    counts = Counter(titles)
    titles = [
        f"{title} ({_folder(run)})" if counts[title] > 1 and title != _folder(run) else title
        for run, title in zip(runs, titles, strict=True)
    ]
    counts = Counter(titles)
    return [
        replace(run, title=title if counts[title] == 1 else str(run.path))
        for run, title in zip(runs, titles, strict=True)
    ]


def _title(run: RunMaterial, seeds: bool, several_stages: bool) -> str:
    parts = [f"{key}={text}" for key, text in run.settings.items()]
    parts += [f"seed={run.seed}"] if seeds and run.seed is not None else []
    text = ", ".join(parts)
    first = run.stage if several_stages and run.stage else run.what if run.kind == EVALUATION and text else ""
    title = ": ".join(filter(None, (first, text))) or _folder(run)
    return _folder(run) if run.kind == EVALUATION and len(title) > _LONGEST_TITLE else title


def _folder(run: RunMaterial) -> str:
    return telling_name(run.path)
