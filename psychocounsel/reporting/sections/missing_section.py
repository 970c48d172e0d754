"""Section on gaps: runs that failed, still run, have one seed or cannot be compared, and the commands to continue."""

from collections.abc import Callable, Iterator, Sequence

from psychocounsel.cluster.states import short
from psychocounsel.reporting.blocks import Paragraph, Section
from psychocounsel.reporting.material import ANNOTATION, AUDIT, EVALUATION, TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparing.families import families, is_reward_model
from psychocounsel.reporting.sections.comparing.held_out_data import differing_held_out
from psychocounsel.reporting.sections.comparing.losses import differing_loss_settings
from psychocounsel.reporting.sections.comparing.setting_groups import differ, listed, settings_of
from psychocounsel.reporting.sections.training.curve_values import not_finite
from psychocounsel.rundir.summary import OF_GATES

_COMMANDS = {TRAINING: "train", EVALUATION: "evaluate", ANNOTATION: "annotate", AUDIT: "audit"}
_ALIVE = ("running", "pending", "requeued")


def section(material: Material) -> Section:
    told = [
        *_problems(material),
        *_unfinished(material),
        *_not_finite(material),
        *_alone(material),
        *_not_comparable(material),
    ]
    return Section("missing", "Missing or not comparable", [*dict.fromkeys(told)])


def _problems(material: Material) -> Iterator[Paragraph]:
    yield from (Paragraph(line, "warning") for line in material.problems)
    for study in material.studies:
        yield from (Paragraph(f"Study {study.name}: {line}", "warning") for line in study.problems)
    for run in material.runs:
        yield from (Paragraph(f"{run.title}: {line}", "warning") for line in run.problems)


def _unfinished(material: Material) -> Iterator[Paragraph]:
    for run in material.runs:
        if run.is_finished or run.status in OF_GATES:  # the answer section shows the verdicts of gates
            continue
        step, total = run.state.get("step"), run.state.get("total")
        at = f" at step {step} of {total}" if step and total else f" at step {step}" if step else ""
        if run.status in _ALIVE:
            yield Paragraph(f"{run.title} is {run.status}{at}: its figures are not final.", "warning")
        elif run.kind in _COMMANDS:
            tone = "bad" if run.status in ("failed", "damaged", "lost") else "warning"
            yield Paragraph(f"{run.title}: {run.status}{at}. {_go_on(run)}.", tone)


def _go_on(run: RunMaterial) -> str:
    """Return the command that resumes a run."""
    target = str((run.config.get("cluster") or {}).get("_target_"))
    if run.stage:
        return "Run the study's command again to resume it (python -m psychocounsel.launch ...)"
    if target.endswith("Slurm"):
        return f"Resume it: python -m psychocounsel.jobs resubmit {short(run.path)}"
    if run.sweep is not None:
        return f"Run the sweep's command again to resume it (python -m psychocounsel.{_COMMANDS[run.kind]} -m ...)"
    key = "out" if run.kind == ANNOTATION else "run_dir"
    return f"Run its command again with {key}={short(run.path)} to resume it (its overrides are in overrides.txt)"


def _not_finite(material: Material) -> Iterator[Paragraph]:
    for run in material.runs:
        if count := not_finite(run):
            said = "figure is" if count == 1 else "figures are"
            yield Paragraph(f"{run.title}: {count} {said} not finite (nan or inf) and not in any chart.", "warning")


def _alone(material: Material) -> Iterator[Paragraph]:
    """Warn of settings with a single finished training run, and of runs that share setting and seed."""
    settings = settings_of(material.of(TRAINING))
    alone = [setting.title for setting in settings if len(setting.finished) == 1]
    if alone:
        runs = "a single finished run" if len(alone) == 1 else "a single finished run each"
        yield Paragraph(f"n=1: {listed(alone)}: {runs}, so the spread over seeds is unknown. "
                        "Add seeds: train -m seed=1,2,3 with the same settings.", "warning")  # fmt: skip
    for setting in settings:
        seeds = [run.seed for run in setting.finished if run.seed is not None]
        if len(set(seeds)) < len(seeds):
            names = listed([run.title for run in setting.finished])
            yield Paragraph(
                f"{names} share settings and seed, so their spread says nothing about other seeds.", "warning"
            )


def _not_comparable(material: Material) -> Iterator[Paragraph]:
    trained = material.of(TRAINING)
    for name, chosen in (("policies", False), ("reward models", True)):
        runs = [run for run in trained if is_reward_model(run) is chosen]
        if len(runs) < 2:
            continue
        if differing := differing_held_out(runs):
            told = f"The {name} were evaluated on different held-out data: {differ(differing)}"
            yield Paragraph(f"{told}. Their evaluation figures cannot be compared.", "bad")
        elif _differ(runs, lambda run: run.environment.get("data")):
            yield from _other_data(runs)
        if keys := differing_loss_settings(runs):
            yield Paragraph(f"Losses of {name} cannot be compared, because {differ(keys)}.")
    found = [family for family in families(material) if family.name in ("policies", "reward models")]
    for family in found if len(found) > 1 else []:
        titles = listed([setting.title for setting in family.settings])
        alone = "compared with no other" if len(family.settings) == 1 else "compared only with each other"
        yield Paragraph(f"{titles}: {alone}, by {family.metric}, which the others lack or do not use.")
    if _differ(material.runs, _version):
        versions = [
            f"{title} ({version})"
            for title, version in ((run.title, _version(run)) for run in material.runs)
            if version
        ]
        yield Paragraph(f"The runs were made by several versions of the code: {listed(versions)}.", "warning")


def _other_data(runs: Sequence[RunMaterial]) -> Iterator[Paragraph]:
    """Warn of runs that were trained on different data, found by their data fingerprints."""
    first = next(run for run in runs if run.environment.get("data"))
    others = [run.title for run in runs if run.environment.get("data") not in (None, first.environment["data"])]
    same = len({str(run.config.get("data")) for run in runs}) == 1
    why = (
        "although their data settings are equal, so the files have changed"
        if same
        else "because their data settings differ"
    )
    yield Paragraph(
        f"{listed(others)}: trained on other rows than {first.title} (another data fingerprint), {why}.", "warning"
    )


def _differ(runs: Sequence[RunMaterial], value: Callable[[RunMaterial], object]) -> bool:
    return len({found for run in runs if (found := value(run))}) > 1


def _version(run: RunMaterial) -> str:
    return str((run.environment.get("versions") or {}).get("psychocounsel") or "")
