"""Definition of a run: `config.yaml` and `job.json`, written before it starts and read by its workers."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader

from psychocounsel.errors import UserError
from psychocounsel.rundir.paths import RunDir
from psychocounsel.storage.files import DamagedFile, read_mapping, write_atomically, write_json
from psychocounsel.storage.yaml_limits import Loader, bounded

# Classes that configurations of earlier versions name by `_target_`, with their present names.
_JUDGING, _SESSION = "psychocounsel.evaluation.judging", "psychocounsel.evaluation.session"
MOVED = {
    "psychocounsel.annotation.replies.pool.Pool": "psychocounsel.asking.language_model.Pool",
    "psychocounsel.annotation.scores.panel.Panel": "psychocounsel.asking.language_model.Panel",
    "psychocounsel.evaluation.contestants.reply_file.ReplyFile": "psychocounsel.evaluation.contestants.settings.ReplyFile",
    "psychocounsel.evaluation.reward.ranker.Ranker": "psychocounsel.evaluation.reward.rankers.Ranker",
    f"{_JUDGING}.reward_judge.RewardJudge": f"{_JUDGING}.judges.RewardJudge",
    f"{_SESSION}.played.played_sets.PlayedPersonas": f"{_SESSION}.played.PlayedPersonas",
    f"{_SESSION}.played.played_sets.VeraMhPersonas": f"{_SESSION}.played.VeraMhPersonas",
    f"{_SESSION}.played.played_sets.MindEvalPersonas": f"{_SESSION}.played.MindEvalPersonas",
    f"{_SESSION}.scripted.scripted_personas.ScriptedPersonas": f"{_SESSION}.scripted.ScriptedPersonas",
    "psychocounsel.reward.openrlhf.OpenRLHFReward": "psychocounsel.reward.servers.OpenRLHFReward",
    "psychocounsel.reward.vllm_classifier.VLLMReward": "psychocounsel.reward.servers.VLLMReward",
    "psychocounsel.search.trial_report.TrialReport": "psychocounsel.search.trials.TrialReport",
}
FIRST_NAMES = {present: first for first, present in MOVED.items()}
_TARGET = re.compile(r"(\b_target_: *)([\w.]+)")


class _PlainLoader(Loader):  # type: ignore[misc, valid-type]
    """Loads the same texts as numbers as OmegaConf does, and no text as a date."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes the same text as OmegaConf's own dumper, in a fifth of the time if PyYAML has the C library."""


_Dumper.add_representer(str, get_omega_conf_dumper().str_representer)


def is_run(folder: Path) -> bool:
    """Return True if `folder` is, or will be, the directory of a run."""
    return RunDir(folder).job.exists()


def has_config(run_dir: Path) -> bool:
    return RunDir(run_dir).config.exists()


def read_config(run_dir: Path) -> DictConfig:
    """Return the configuration of a run.

    Raises:
        UserError: if the file cannot be read.
    """
    path = RunDir(run_dir).config
    try:
        loaded = OmegaConf.load(StringIO(_text_of(run_dir)))
    except Exception as error:
        raise UserError(
            f"{path}: cannot be read ({type(error).__name__}); restore it or use another run_dir"
        ) from error
    if not isinstance(loaded, DictConfig) or not loaded:
        raise UserError(f"{path}: is not a run's configuration; use another run_dir")
    return loaded


def _text_of(run_dir: Path, errors: str = "strict") -> str:
    """Return the text of `config.yaml` with the present names of moved classes. Raises yaml.YAMLError (see `bounded`)."""
    text = RunDir(run_dir).config.read_text(encoding="utf-8", errors=errors)
    return bounded(_TARGET.sub(lambda match: match[1] + MOVED.get(match[2], match[2]), text))


def read_plain(run_dir: Path) -> dict[str, Any] | None:
    """Return the configuration of a run as plain mappings and lists, in a tenth of the time of `read_config`.

    The result is None if the file is missing or cannot be read.
    """
    try:
        content = yaml.load(_text_of(run_dir), _PlainLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) and content else None


def read_section(run_dir: Path, key: str) -> Any:
    """Return the value of a top-level key of `config.yaml` without parsing the whole file; None if the key is missing.

    Raises:
        DamagedFile: if the value is not YAML.
    """
    try:
        text = _text_of(run_dir, "replace")
        section = re.search(rf"^{key}:.*(?:\n(?:[ -].*)?$)*", text, re.MULTILINE)
        return yaml.load(section[0], Loader)[key] if section else None
    except FileNotFoundError:
        return None
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise DamagedFile(f"{RunDir(run_dir).config}: cannot be read; restore it") from error


def read_overrides(file: Path, errors: str = "strict") -> list[str]:
    """Return the overrides in the file `overrides.txt` of a run or a review; [] if it does not exist.

    `errors="replace"` reads the file of a run that may be damaged or of another program.

    Raises:
        DamagedFile: if the file is not text, unless `errors` is `replace`.
    """
    try:
        return file.read_text(encoding="utf-8", errors=errors).splitlines() if file.is_file() else []
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{file}: is not text; restore it") from error


def write_config(run_dir: Path, config: DictConfig) -> None:
    content = OmegaConf.to_container(config)
    text = yaml.dump(content, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)
    write_atomically(RunDir(run_dir).config, text)


def write_job(run_dir: Path, module: str, index: int, after: list[str]) -> None:
    """Write `job.json`: the module that works in the run directory, its index in the sweep, and the runs it waits for."""
    write_json(RunDir(run_dir).job, {"module": module, "index": index, "after": after})


def module_of(run_dir: Path) -> str:
    """Return the module that works in a run directory; "" before it is written."""
    return str(read_mapping(RunDir(run_dir).job).get("module", ""))


def refuse_other_command(run_dir: Path, module: str, key: str) -> None:
    """Refuse a directory, given as `key`, in which another command than that of `module` works.

    Raises:
        UserError: naming the other command.
    """
    if (other := module_of(run_dir)) not in ("", module):
        made_by = other.removeprefix("psychocounsel.")
        raise UserError(f"{key}={run_dir}: holds a run of `psychocounsel {made_by}`; give another folder")


def read_run(run_dir: Path) -> tuple[dict[str, Any], DictConfig]:
    """Return `job.json` and the configuration of a run directory.

    Raises:
        UserError: if the folder is not a run directory, or one of the two files is damaged.
    """
    job = read_mapping(RunDir(run_dir).job)
    if not RunDir(run_dir).job.exists() or not has_config(run_dir):
        files = RunDir(run_dir)
        raise UserError(f"{run_dir}: is not a run directory (it has no {files.job.name} and {files.config.name})")
    if "module" not in job:
        raise DamagedFile(f"{RunDir(run_dir).job}: names no module; restore it, or repeat the run's command")
    return job, read_config(run_dir)
