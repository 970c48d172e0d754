"""The group `data`: its keys, their checks, and what a mixture names. Imports no torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from psychocounsel.counsel.controls import KINDS
from psychocounsel.counsel.principles import PRINCIPLES
from psychocounsel.errors import UserError
from psychocounsel.remote.hub_sources import HubSource, is_here
from psychocounsel.rundir.paths import EvaluationDir
from psychocounsel.settings.keys import unknown_key
from psychocounsel.settings.paths import (
    SHIPPED_DATA,
    check_local_path,
    is_made_before,
    is_of_earlier_run,
    make_absolute,
    name_by_path,
)
from psychocounsel.settings.schema import PathsConfig, option, suggestion
from psychocounsel.settings.targets import build, is_on_hub, target_class
from psychocounsel.storage.files import expanded

# Names that `data.columns` may give to columns of a file: those of data/rows.py.
COLUMNS = (
    *("prompt", "chosen", "rejected", "completion", "messages", "replies", "label", "system", "id", "topic", "risk"),
    *("language", "chosen_probability", "chosen_model", "rejected_model", "reply_score"),
    *("role", "content"),
    *(f"{side}_{name}_rating" for side in ("chosen", "rejected") for name in PRINCIPLES),
)
JOINED = ("prompt", "system", "chosen", "rejected", "completion", "content")  # texts of one or of several columns
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
OWN = "own"  # a control that the user gives: replies of the base or of an earlier policy, in `data.own_replies`


def listed(value: Any) -> list[Any]:
    """Return the values of a setting that holds one or a list of them."""
    return [*value] if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def columns_in(given: Any) -> list[str]:
    """Return the columns that a value of `data.columns` names: one, or several whose texts are joined."""
    return [*map(str, listed(given))]


@dataclass
class MixEntry:
    name: str | None = None
    path: str | None = None
    split: str = "train"
    revision: str | None = None
    license: str | None = None
    rows: int | None = option(None, at_least=1)
    weight: float | None = option(None, above=0)


@dataclass
class DataConfig:
    name: str = MISSING
    path: str | None = None  # shipped data (builtin:NAME), a local file or folder, or a hub dataset
    revision: str | None = None
    license: str | None = None
    split: str = "train"
    eval_path: str | None = None
    eval_revision: str | None = None
    eval_split: str | None = None
    dev_fraction: float = option(0.1, at_least=0, below=1)
    split_seed: int = 0
    limit: int | None = option(None, at_least=1)
    fraction: float | None = option(None, above=0, at_most=1)
    half: str | None = option(None, choices=("first", "second"))
    pairs: str = option("all", choices=("all", "extremes"))
    min_gap: float | None = option(None, at_least=0)
    # None by default, so that runs of earlier versions keep their identity.
    min_chosen: float | None = None
    gap: str = option("mean", choices=("mean", "sum"))
    principle_weights: dict[str, float] = option({})
    safety_veto: bool = False
    too_long: str = option("drop", choices=("drop", "shorten"))
    bad_rows: str = option("refuse", choices=("refuse", "drop"))
    rating_range: list[float] = option([1.0, 5.0])
    mix: list[MixEntry] = option([])
    # None by default, so that runs of earlier versions keep their identity.
    columns: dict[str, Any] | None = None  # each value is a column, or a list of columns whose texts are joined
    group_by: str | None = None
    where: dict[str, Any] | None = None
    html: str | None = option(None, choices=("text",))
    subset: str | None = None
    train_on: str | None = option(None, choices=("last", "every"))
    delimiter: str | None = option(None, choices=(*DELIMITERS,))
    # Controls (data/controls.py). None by default, so that runs of earlier versions keep their identity.
    controls: list[str] | None = None
    control_rate: float | None = option(None, above=0, at_most=5)
    own_replies: str | None = None
    controls_held_out: bool | None = None
    soft_labels: bool = False
    balance: list[str] | None = None
    confidential: bool = False
    allowed_hosts: list[str] = option([])


@dataclass
class PairsConfig:
    """The keys of commands that read pairs and train nothing; `reward` and `cluster` are added from their `_target_`."""

    part: str = option("auto", choices=("auto", "held_out", "all"))
    limit: int | None = option(None, at_least=1)
    run_dir: str | None = None
    sweep_dir: str | None = None
    after: list[str] = option([])
    dry_run: bool | str = option(False, choices=(False, True, "script"))
    data: DataConfig = field(default_factory=DataConfig)
    paths: PathsConfig = field(default_factory=PathsConfig)
    code_path: list[str] = option([])
    settled: dict[str, Any] = option({})


def check_principle_weights(weights: Mapping[str, float], key: str) -> None:
    """Refuse weights of unknown principles, negative ones, and weights that are all 0."""
    for name, weight in weights.items():
        if name not in PRINCIPLES:
            raise UserError(f"{key}.{name}: no such principle; {suggestion(name, list(PRINCIPLES))}")
        if weight < 0:
            raise UserError(f"{key}.{name}={weight}: must be at least 0")
    if weights and not any(weights.values()):
        raise UserError(f"{key} are all 0: give at least one principle a weight")


def check_data(config: DictConfig) -> None:
    """Raise UserError for settings of the group `data` that cannot work, naming the key and what to type instead."""
    data = config.data
    check_principle_weights(data.principle_weights, "data.principle_weights")
    if len(data.rating_range) != 2 or data.rating_range[0] >= data.rating_range[1]:
        raise UserError(f"data.rating_range={data.rating_range}: give the lowest and the highest rating, as [1,5]")
    if data.limit and data.fraction:
        raise UserError("data.limit and data.fraction exclude each other: keep one")
    _check_controls(config)
    _check_columns(config)
    own_source = bool(data.get("_target_"))
    if own_source and data.mix:
        raise UserError(
            f"data.mix: cannot be mixed with rows that {data._target_} reads; use data=local for the mixture"
        )
    if own_source:
        build(config, "data").check()
    elif not data.mix and not data.path:
        raise UserError("data.path is not set: add data.path=FILE_OR_FOLDER, or choose data=everyday or data=sample")
    for index, entry in enumerate(data.mix):
        if bool(entry.rows) == bool(entry.weight):
            raise UserError(f"data.mix[{index}]: give either rows or weight, for instance {{name: sample, rows: 100}}")
        if not entry.path:
            raise UserError(f"data.mix[{index}]: {entry.name} has no path of its own; give path=FILE_OR_FOLDER as well")
        if not is_made_before(config, entry.path):
            check_local_path(entry.path, f"data.mix[{index}].path", of_data=True, revision=entry.revision)
    if len({bool(entry.weight) for entry in data.mix}) > 1:
        raise UserError("data.mix: give rows for every entry or weight for every entry, not both kinds")
    source = data.eval_path or ("data.mix" if data.mix else data.path)
    if data.eval_split and not own_source and (source == "data.mix" or _is_one_part(source)):
        raise UserError(f"data.eval_split={data.eval_split}: {source} has no splits; give data.eval_path=FILE instead")
    if data.split != "train" and not own_source and not data.mix and _is_one_part(data.path):
        raise UserError(f"data.split={data.split}: {data.path} has no splits; data.split=train reads all of it")
    for key in ("path", "eval_path"):
        if not (data[key] and is_made_before(config, data[key])):
            check_local_path(data[key], f"data.{key}", of_data=True, revision=data[key.replace("path", "revision")])


def _check_columns(config: DictConfig) -> None:
    data = config.data
    for name, given in (data.columns or {}).items():
        several = OmegaConf.is_list(given)
        if not all(isinstance(column, str | int) for column in (given if several else [given])) or given == []:
            raise UserError(f"data.columns.{name}: must be a column, or a list of columns whose texts are joined")
        if several and name not in JOINED:
            raise UserError(
                f"data.columns.{name}: names one column; only {', '.join(JOINED)} join the texts of several"
            )
    for column, values in (data.where or {}).items():
        if OmegaConf.is_dict(values) or values == []:
            raise UserError(f"data.where.{column}: must be a value, or a list of values, for instance [high, medium]")
    named = [column for given in (data.columns or {}).values() for column in columns_in(given)]
    if len({*named}) < len(named):
        raise UserError(f"data.columns={data.columns}: gives one column two names; give each column one")
    for name in data.columns or {}:
        if name not in COLUMNS:
            raise UserError(
                f"data.columns: {name} is none of the names that rows have here; {suggestion(name, list(COLUMNS))}"
            )
    if data.group_by and not {"role", "content"} <= {*(data.columns or {})}:
        raise UserError(
            f"data.group_by={data.group_by}: joins rows with one turn each: name the columns of speaker and text, for instance "
            "data.columns={role: interlocutor, content: utterance_text}"
        )
    own: set[str] = set()
    if data.get("_target_"):  # a source of the user's may have keys of these names
        kinds = [kind for kind in target_class(config, "data").__mro__ if kind is not DataConfig]
        own = {name for kind in kinds for name in vars(kind).get("__annotations__", {})}
    for key in ("columns", "delimiter", "group_by", "subset", "where"):
        mixed = data.mix and key != "where"
        if data[key] and key not in own and (mixed or data.get("_target_")):
            what = "data.mix" if mixed else data._target_
            raise UserError(
                f"data.{key}: cannot be combined with {what}, whose rows have the usual columns; leave it out"
            )


def _check_controls(config: DictConfig) -> None:
    data, known = config.data, [*KINDS, OWN]
    names = [*(data.controls or [])]
    for name in names:
        if name not in known:
            raise UserError(f"data.controls: there is no control {name}; {suggestion(name, known)}")
    if len({*names}) < len(names):
        raise UserError(f"data.controls=[{','.join(names)}]: names a control twice; give each once")
    if OWN in names and not data.own_replies:
        raise UserError("data.controls: own needs data.own_replies=FILE, with the columns prompt and reply")
    if not data.own_replies or is_of_earlier_run(config, data.own_replies):  # which may have begun
        return
    place = expanded(data.own_replies)
    if not place.exists():
        raise UserError(f"data.own_replies={data.own_replies}: there is no such file or folder")
    if place.is_dir() and not (EvaluationDir(place).speeches.is_file() and EvaluationDir(place).replies.is_file()):
        raise UserError(
            f"data.own_replies={data.own_replies}: is no evaluation with replies; give one, or a file with the columns prompt "
            "and reply"
        )


def _is_one_part(path: str) -> bool:
    """Return True if the data source at `path` has no splits."""
    return path in SHIPPED_DATA or expanded(path).is_file()


def _may_be_table(path: str) -> bool:
    """Return True if `path` is a CSV file, or a folder, which may hold some."""
    suffixes = {suffix.lower() for suffix in Path(path).suffixes}
    return bool(suffixes & {".csv", ".tsv"}) or expanded(path).is_dir()


def settle_data(config: DictConfig) -> None:
    """Make the paths of `data` absolute, and name a file or folder of the user after its path."""
    make_absolute(config, config.data, ("path", "eval_path", "own_replies"))
    for entry in config.data.mix:
        make_absolute(config, entry, ("path",))
    name_by_path(config.data, ("local", "sample", "everyday"))


def resolve_mix(composed: DictConfig, load_group: Callable[[str], DictConfig]) -> None:
    """Fill each `data.mix` entry given by `name` from `conf/data/<name>.yaml`, through `load_group(name)`.

    Names become paths here, because the worker does not compose.

    Raises:
        UserError: for an entry of another form, or for a preset that is not a file, folder or hub dataset.
    """
    mix = OmegaConf.select(composed, "data.mix") or []
    if (not OmegaConf.is_list(mix) and mix) or not all(OmegaConf.is_dict(entry) for entry in mix):
        raise UserError("data.mix: is a list of entries, for instance [{name: sample, rows: 100}]")
    for entry in mix:
        unknown = set(entry) - set(MixEntry.__dataclass_fields__)
        if unknown:
            word = sorted(unknown)[0]
            raise UserError(f"data.mix: {unknown_key(word, list(MixEntry.__dataclass_fields__))}")
        if not entry.get("path"):
            if not entry.get("name"):
                raise UserError("data.mix: each entry needs a name (a config of the data group) or a path")
            preset = load_group(entry["name"])
            if preset.get("_target_"):
                raise UserError(
                    f"data.mix: {entry['name']} reads its rows by {preset['_target_']}, and only files, folders and hub "
                    "datasets can be mixed; give the entry a path"
                )
            for key in ("path", "split", "revision", "license"):
                if preset.get(key) is not None:
                    entry[key] = preset[key]


def idle_data(data: DictConfig) -> Iterator[tuple[str, str]]:
    """Yield the keys of `data` that its other keys disable, each with the reason."""
    if data.mix:
        same = [entry for entry in data.mix if entry.path == data.path]  # given by `path: ${data.path}`
        for name, unset in (("path", None), ("split", "train"), ("revision", None)):
            if data[name] == unset or all(entry[name] != data[name] for entry in same):
                yield f"data.{name}", "data.mix gives the training rows"
    elif not is_on_hub(data.path):
        yield "data.revision", "data.path is not a dataset of the hub"
    if _is_one_part(str(data.path)):
        yield "data.subset", "data.path is one file, and only folders and hub datasets have subsets"
    if data.path in SHIPPED_DATA and not data.eval_path:
        for name in ("columns", "group_by"):
            yield f"data.{name}", "shipped data have the usual columns"
    if _is_one_part(str(data.path)) and not _may_be_table(str(data.path)) and not _may_be_table(str(data.eval_path)):
        yield "data.delimiter", "only CSV files have one"
    if not is_on_hub(data.eval_path):
        yield "data.eval_revision", "data.eval_path is not a dataset of the hub"
    own_held_out = data.eval_path or data.eval_split
    if own_held_out:
        yield "data.dev_fraction", "data.eval_path or data.eval_split gives the held-out rows"
    if not (data.limit or data.fraction or data.half or data.mix) and (own_held_out or not data.dev_fraction):
        yield "data.split_seed", "nothing is drawn at random: all rows are used, and no prompt is held out"
    if not data.controls:
        yield "data.control_rate", "data.controls names no control"
        yield "data.controls_held_out", "data.controls names no control"
    if OWN not in (data.controls or []):
        yield "data.own_replies", "data.controls does not name own"
    if data.min_gap is None:
        yield "data.gap", "it is the scale of data.min_gap, which is not set"


def idle_without_training() -> Iterator[tuple[str, str]]:
    """Yield the keys of `data` that only training uses, each with the reason."""
    yield "data.balance", "only training weights pairs"
    yield "data.half", "only training takes a half"
    for name in ("controls", "control_rate", "own_replies", "controls_held_out"):
        yield f"data.{name}", "only training adds pairs"
    yield "data.soft_labels", "only training uses soft labels"
    yield "data.train_on", "only training learns turns"


def data_repositories(config: DictConfig) -> Iterator[tuple[HubSource, str]]:
    """Yield the hub datasets of `data`, each with the key of its revision; shipped and local files are skipped."""
    parts = [f"data.mix[{index}]." for index in range(len(config.data.mix))] or ["data."]
    for prefix in (*parts, "data.eval_"):
        path, key = OmegaConf.select(config, f"{prefix}path"), f"{prefix}revision"
        if path and not is_here(path):
            yield HubSource("dataset", path, OmegaConf.select(config, key), f"{prefix}path"), key
