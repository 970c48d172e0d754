"""Comparisons that several sections share: groups of runs with equal settings, the metric they are compared by,
comparability of losses, and held-out data.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from psychocounsel.blocks.tables import TableFigure
from psychocounsel.reporting.material import EVALUATION, TRAINING, Material, RunMaterial
from psychocounsel.rundir.results import smaller_is_better
from psychocounsel.studies.tables.runs import Setting, is_share, of_setting

# Groups of runs with equal settings, and texts for sentences

RunSetting = Setting[RunMaterial]


def settings_of(runs: Iterable[RunMaterial]) -> list[RunSetting]:
    """Group runs that differ only in their seeds into settings, in the order in which the runs were given."""
    settings: dict[tuple[str, ...], RunSetting] = {}
    for run in runs:
        key = (run.kind, run.what, run.stage, run.setting)
        settings.setdefault(key, Setting(setting_title(run))).runs.append(run)
    return list(settings.values())


def setting_title(run: RunMaterial) -> str:
    """Return `stage, key=value, ...`, or the run's algorithm, evaluation or title if it has neither."""
    parts = [part for part in (run.stage, run.setting) if part]
    return ", ".join(parts) or run.what or run.title


def listed(names: Sequence[str], most: int = 6) -> str:
    """Return `a, b and c`. A long list is cut: `a, b and 5 more`. If names contain commas, semicolons separate them."""
    comma = "; " if any(", " in name for name in names) else ", "
    if len(names) > most:
        return f"{comma.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (comma.join(names[:-1]), names[-1]))) if names else "none"


def differ(names: Sequence[str]) -> str:
    """Return `a differs` or `a and b differ`."""
    return f"{listed(names)} {'differs' if len(names) == 1 else 'differ'}"


def metric_name(metric: str) -> str:
    """Return a metric as a person says it: `held-out win rate` for eval/win_rate."""
    return metric.replace("eval/", "held-out ", 1).replace("_", " ")


def value_text(metric: str, value: float) -> str:
    """Return a share as `61.2 %`, any other value with four digits."""
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4g}"


def interval_text(metric: str, low: float, high: float) -> str:
    """Return an interval as text: `55.0 to 67.4 %`."""
    return f"{100 * low:.1f} to {100 * high:.1f} %" if is_share(metric) else f"{low:.4g} to {high:.4g}"


# Losses can be compared if the algorithm and all settings that enter the loss are equal

# These keys belong to the optimizer and do not enter the loss, so they may differ.
_OF_THE_OPTIMIZER: tuple[str, ...] = (
    "lr",
    "critic_lr",
    "schedule",
    "warmup",
    "min_lr_ratio",
    "weight_decay",
    "max_grad_norm",
)
_OF_THE_OPTIMIZER += ("adam_beta1", "adam_beta2", "adam_eps")


def loss_kind(run: RunMaterial) -> str:
    """Return the algorithm and its type of loss: `DPO, sigmoid`. Curves of one kind can share a chart."""
    section = _section(run, "algo")
    name = str(section.get("_target_") or run.what).rpartition(".")[2]
    return ", ".join(filter(None, (name, str(section.get("loss_type") or ""))))


def loss_settings(run: RunMaterial) -> dict[str, str]:
    """Return every setting of the algorithm that enters its loss, as text."""
    settings = {key: str(value) for key, value in _section(run, "algo").items() if key not in _OF_THE_OPTIMIZER}
    return {"what": run.what, **settings}


def differing_loss_settings(runs: Iterable[RunMaterial]) -> list[str]:
    """Return the settings of the loss that differ between runs, such as `algo.beta`; only `algo` if the algorithms differ."""
    differing = _differing(map(loss_settings, runs))
    return ["algo"] if {"what", "_target_"} & {*differing} else [f"algo.{key}" for key in differing]


def _differing(by_run: Iterable[Mapping[str, str]]) -> list[str]:
    """Return the keys in which settings differ."""
    settings = [*by_run]
    keys = dict.fromkeys(key for of_run in settings for key in of_run)
    return [key for key in keys if len({of_run.get(key) for of_run in settings}) > 1]


# Held-out rewards can be compared if the same reward gave them

REWARD = "eval/reward"
_WITHOUT_EFFECT = ("name", "micro_batch_tokens")


def differing_rewards(runs: Iterable[RunMaterial]) -> list[str]:
    """Return the settings of the reward that differ between runs, such as `reward.path`; only `reward` if its kinds differ."""
    differing = _differing(map(_reward_settings, runs))
    return ["reward"] if "_target_" in differing else [f"reward.{key}" for key in differing]


def _reward_settings(run: RunMaterial) -> dict[str, str]:
    section = _section(run, "reward")
    return {key: str(value) for key, value in section.items() if key not in _WITHOUT_EFFECT}


def _of_one_reward(runs: Sequence[RunMaterial]) -> list[RunMaterial]:
    """Return the largest group of runs whose replies the same reward scored; of several, the first."""
    groups: dict[str, list[RunMaterial]] = {}
    for run in runs:
        groups.setdefault(str(_reward_settings(run)), []).append(run)
    return max(groups.values(), key=len, default=[])


# Held-out data of training runs: figures on different data cannot be compared

_DATA_KEYS: tuple[str, ...] = (
    "path",
    "revision",
    "split",
    "eval_path",
    "eval_revision",
    "eval_split",
    "dev_fraction",
    "split_seed",
    "limit",
)
_DATA_KEYS += (
    "pairs",
    "min_gap",
    "gap",
    "principle_weights",
    "safety_veto",
    "rating_range",
    "too_long",
)


def differing_held_out(runs: Iterable[RunMaterial]) -> list[str]:
    """Return the settings of the held-out data that differ between runs, such as `data.dev_fraction` or `eval.limit`."""
    return _differing(map(_data_settings, runs))


def _data_settings(run: RunMaterial) -> dict[str, str]:
    data, evaluated = run.config.get("data"), run.config.get("eval")
    settings = {f"data.{key}": str(data.get(key)) for key in _DATA_KEYS} if isinstance(data, Mapping) else {}
    if isinstance(evaluated, Mapping):
        settings["eval.limit"] = str(evaluated.get("limit"))
    return {**settings, "max_length": str(run.config.get("max_length"))}


# Families of runs that one metric can compare: all have it, and its values mean the same in each

_COMPARABLE = ("eval/accuracy", "eval/win_rate", REWARD)
_OF_EVALUATIONS = {"reward": "accuracy", "winrate": "win_rate", "health": "limits_exceeded", "external": "accuracy"}
_OF_EVALUATIONS |= {"safety": "missed"}


@dataclass(frozen=True)
class Family:
    """Finished runs compared by one metric.

    Attributes:
        name: the kind of runs, as used in a sentence: `policies`, `reward models`, `evaluations (winrate)`.
        metric: the metric's key in `summary.json`.
        smaller: True if the smallest value is the best.
        reason: a clause that says why this metric was chosen.
        settings: the settings, best first.
    """

    name: str
    metric: str
    smaller: bool
    reason: str
    settings: Sequence[RunSetting]

    def figure(self, setting: RunSetting) -> TableFigure:
        """Return the metric of a setting: the mean over its seeds, or one run's value with that run's own interval."""
        figure = of_setting(setting, self.metric, is_share(self.metric))
        assert figure is not None, "a family has only runs with the metric"
        return figure

    def values(self, setting: RunSetting) -> list[float]:
        """Return the metric of each run of the setting."""
        return [value for run in setting.runs if (value := run.figure(self.metric)) is not None]

    @property
    def runs(self) -> list[RunMaterial]:
        return [run for setting in self.settings for run in setting.runs]


def families(material: Material) -> list[Family]:
    """Return families of finished runs: trainings by the metric that most have, evaluations by their main figure."""
    trained = [run for run in material.of(TRAINING) if run.is_finished]
    groups = list[Family]()
    for name, chosen in (("policies", False), ("reward models", True)):
        groups += _of_trainings(name, [run for run in trained if is_reward_model(run) is chosen])
    for what, metric in _OF_EVALUATIONS.items():
        runs = [run for run in material.of(EVALUATION) if run.what == what and run.is_finished]
        known = _with_figure(runs, metric)
        several = [len({*map(name, known)}) > 1 for name in (_opponent, _judges)]
        alike: dict[str, list[RunMaterial]] = {}  # shares against other opponents, or by other judges, have no order
        for run in known:
            against = f" against {_opponent(run)}" if several[0] else ""
            alike.setdefault(against + (f" by {_judges(run)}" if several[1] else ""), []).append(run)
        for terms, of_terms in alike.items():
            name = f"evaluations ({what}{terms})"
            groups.append(_family(name, metric, "auto", "it is the main figure of this evaluation", of_terms))
    return groups


def contest_of(run: RunMaterial) -> str:
    """Return whom the main figure of an evaluation compares with, and by which judges."""
    return f"{_opponent(run)} by {_judges(run)}"


def _opponent(run: RunMaterial) -> str:
    """Return the model that the main win rate compares with, the first one; "" for other evaluations."""
    if run.what != "winrate":
        return ""
    variants = run.figures.get("variants") or [{"opponents": ()}]
    return next(iter(variants[0]["opponents"]), "?")


def _judges(run: RunMaterial) -> str:
    """Return the judges of the main figure: all of a win rate, the first of safety; "" for other evaluations."""
    if run.what == "safety":
        return next(iter(run.figures.get("judges") or ["?"]))
    return listed(sorted(run.figures.get("verdicts") or ["?"])) if run.what == "winrate" else ""


def is_reward_model(run: RunMaterial) -> bool:
    return ".reward." in str(_section(run, "algo").get("_target_"))


def metric_of(run: RunMaterial) -> str:
    """Return the metric by which the training run chose its best evaluation, or "" if unknown."""
    return str(_section(run, "checkpoint").get("metric") or "")


def _of_trainings(name: str, runs: Sequence[RunMaterial]) -> Iterator[Family]:
    """Yield families of runs: first those with the metric that most runs have, then the remaining runs likewise."""
    remaining = [*runs]
    while remaining:
        asked = list(dict.fromkeys(filter(None, map(metric_of, remaining))))
        ranked = [*(metric for metric in asked if "loss" not in metric), *_COMPARABLE, *asked]
        by_metric = {metric: _with_figure(remaining, metric) for metric in dict.fromkeys(ranked)}
        differing = differing_rewards(by_metric[REWARD])
        by_metric[REWARD] = _of_one_reward(by_metric[REWARD])
        usable = [
            metric
            for metric, having in by_metric.items()
            if having and ("loss" not in metric or not differing_loss_settings(having))
        ]
        if not usable:
            return
        metric = max(usable, key=lambda key: len(by_metric[key]))  # of several, the first: a loss comes last
        mode = str(_section(by_metric[metric][0], "checkpoint").get("mode") or "auto") if metric in asked else "auto"
        reason = _reason(metric, asked)
        if metric == REWARD and differing:
            reason += f", and only between runs with the same reward, because {differ(differing)}"
        yield _family(name, metric, mode, reason, by_metric[metric])
        # Comparing runs themselves is slow, because it compares all their lines.
        taken = {id(run) for run in by_metric[metric]}
        remaining = [run for run in remaining if id(run) not in taken]


def _with_figure(runs: Sequence[RunMaterial], metric: str) -> list[RunMaterial]:
    return [run for run in runs if run.figure(metric) is not None]


def _reason(metric: str, asked: Sequence[str]) -> str:
    if [*asked] == [metric]:
        return f"every run has checkpoint.metric={metric}"
    if len(asked) == 1 and "loss" in asked[0]:
        return f"checkpoint.metric is {asked[0]}, whose scale depends on the settings of the algorithm"
    return f"most runs have {metric}, and their checkpoint.metric differs ({', '.join(asked)})"


def _family(name: str, metric: str, mode: str, reason: str, runs: Sequence[RunMaterial]) -> Family:
    smaller = smaller_is_better(metric, mode)
    family = Family(name, metric, smaller, reason, settings_of(runs))
    ranked = sorted(_told_apart(family.settings), key=lambda setting: family.figure(setting).value, reverse=not smaller)
    return Family(name, metric, smaller, reason, ranked)


def _told_apart(settings: Sequence[RunSetting]) -> list[RunSetting]:
    """Return the settings with titles that name only keys whose values differ, if such titles are unique."""
    firsts = [setting.runs[0] for setting in settings]
    keys = dict.fromkeys(key for run in firsts for key in run.settings)
    varying = [key for key in keys if len({run.settings.get(key) for run in firsts}) > 1]
    stages = len({run.stage for run in firsts}) > 1
    titles = [
        ", ".join(
            [
                *([run.stage] if stages else []),
                *(f"{key}={run.settings[key]}" for key in varying if key in run.settings),
            ]
        )
        for run in firsts
    ]
    if len(settings) < 2 or not all(titles) or len({*titles}) < len(titles):
        return [*settings]
    return [replace(setting, title=title) for setting, title in zip(settings, titles, strict=True)]


def _section(run: RunMaterial, name: str) -> Mapping[str, Any]:
    section = run.config.get(name)
    return section if isinstance(section, Mapping) else {}
