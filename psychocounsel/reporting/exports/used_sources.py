"""Data and models that a report's runs used: revisions, licences and fingerprints, each source once."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from psychocounsel.reporting.material import Material, RunMaterial
from psychocounsel.rundir.paths import AnnotationDir

Row = tuple[Any, ...]


def data_rows(material: Material) -> list[Row]:
    """Return one row per data source: path, revision, split, licence, fingerprint of the rows, number of runs."""
    return _counted(row for run in material.runs for row in _data(run))


def model_rows(material: Material) -> list[Row]:
    """Return one row per model: path, revision, licence or terms, hash of the weights, number of runs."""
    return _counted(row for run in material.runs for row in _models(run))


def _counted(rows: Iterator[Row]) -> list[Row]:
    found: dict[Row, int] = {}
    for row in rows:
        found[row] = found.get(row, 0) + 1
    return [(*row, count) for row, count in found.items()]


def _data(run: RunMaterial) -> Iterator[Row]:
    mark = run.environment.get("data") or (run.extra.get("audit") or {}).get("fingerprint")
    data, speeches = run.config.get("data"), run.config.get("speeches")
    if isinstance(data, Mapping):
        for each in data.get("mix") or [data]:
            yield (*_source({**data, **each}), mark)
        if data.get("eval_path"):
            held_out = {
                "path": data["eval_path"],
                "revision": data.get("eval_revision"),
                "split": data.get("eval_split"),
            }
            yield (*_source({**data, **held_out}), mark)
    if isinstance(speeches, Mapping):
        for each in speeches.get("sources") or [speeches]:
            yield (*_source({**speeches, **each}), None)


def _source(section: Mapping[str, Any]) -> Row:
    return section.get("path"), _revision(section), section.get("split"), _licence(section)


def _revision(section: Mapping[str, Any]) -> str:
    """Return the pinned revision of a dataset or model of the hub, or a remark: shipped, local or not pinned."""
    if section.get("revision"):
        return str(section["revision"])
    path = str(section.get("path") or section.get("model"))
    return (
        "ships with this version" if path.startswith("builtin:") else "local" if path.startswith("/") else "not pinned"
    )


def _licence(section: Mapping[str, Any]) -> str | None:
    """Return the licence that the configuration names, or otherwise the licence in the card of a local dataset."""
    if section.get("license"):
        return str(section["license"])
    path = Path(str(section.get("path")))
    card = path / AnnotationDir(Path()).card.name
    if not path.is_absolute() or not card.is_file():
        return None
    try:
        head = yaml.safe_load(card.read_text(errors="replace").split("---")[1])
        return str(head["license"])
    except (IndexError, KeyError, TypeError, yaml.YAMLError, OSError):
        return None


def _models(run: RunMaterial) -> Iterator[Row]:
    model, reward = run.config.get("model"), run.config.get("reward")
    if isinstance(model, Mapping):
        yield model.get("path"), _revision(model), model.get("license"), run.environment.get("weights")
    if isinstance(reward, Mapping):
        for each in reward.get("members") or [reward]:
            yield each.get("path"), _revision(each), each.get("license"), None
    weights = _weights(run)
    for group in ("writers", "annotator", "contestants", "judge", "client"):
        section = run.config.get(group)
        for each in (section.get("members") or [section]) if isinstance(section, Mapping) else ():
            named = each if each.get("model") else each.get("reward") or {}
            place = named.get("model") or named.get("path")
            if place:
                yield (
                    place,
                    _revision(named),
                    each.get("terms"),
                    weights.get(f"{group}.local_weights.{each.get('name')}"),
                )


def _weights(run: RunMaterial) -> dict[str, str]:
    """Return the hashes of local weights recorded by the run's steps, by setting name."""
    found: dict[str, str] = {}
    for record in (run.extra.get("steps") or {}).values():
        settings = record.get("settings") or {}
        found |= {key: value for key, value in settings.items() if ".local_weights." in key}
    return found
