"""Section on over-optimisation: the trained reward and other rewards against divergence from the reference."""

from collections.abc import Iterator, Sequence

from psychocounsel.reporting.blocks import Block, Chart, Curve, Paragraph, Section
from psychocounsel.reporting.material import TRAINING, Material, RunMaterial
from psychocounsel.reporting.sections.comparing.setting_groups import setting_title
from psychocounsel.studies.tables.curve_table import EvaluationPoint, points_of

_REWARD = "eval/reward"
_WIN_RATE = "eval/win_rate"
_NATS = "KL from the reference (nats per reply)"
_AXES = {_NATS: "kl", "steps": "steps", "prompts": "prompts", "GPU-hours": "gpu_hours"}

Points = Sequence[EvaluationPoint]


def section(material: Material) -> Section:
    found = [(run, points) for run in material.of(TRAINING) if (points := _points(run))]
    blocks: list[Block] = []
    for key in _figures(found):
        blocks += _chart(key, found)
    return Section("overoptimisation", "Reward against divergence", [*blocks, *_divided(found)])


def _points(run: RunMaterial) -> Points:
    """Return the evaluations that have reward and divergence, one per step."""
    by_step = {point.steps: point for point in points_of(run)}
    return [point for point in by_step.values() if point.kl is not None and _REWARD in point.figures]


def _figures(found: Sequence[tuple[RunMaterial, Points]]) -> list[str]:
    """Return the trained reward's key, the keys of other measured rewards, and the win rate's key."""
    keys = dict.fromkeys(key for _, points in found for point in points for key in point.figures)
    return [key for key in (_REWARD, *_others(keys), _WIN_RATE) if key in keys]


def _others(keys: Sequence[str] | dict[str, None]) -> list[str]:
    return sorted(key for key in keys if key.startswith(f"{_REWARD}_") and not key.endswith(("_low", "_high")))


def _chart(key: str, found: Sequence[tuple[RunMaterial, Points]]) -> Iterator[Chart]:
    curves = list[Curve]()
    for run, points in found:
        known = [point for point in points if key in point.figures]
        if known:
            places = {title: [_place(point, axis) for point in known] for title, axis in _AXES.items()}
            values, labels = [point.figures[key] for point in known], [f"step {point.steps}" for point in known]
            curves.append(Curve(run.title, places, values, labels=labels, group=setting_title(run)))
    if curves:
        name = key.removeprefix("eval/").replace("_", "-").replace("/", "-")
        trained = " (maximised by training)" if key == _REWARD else ""
        reference = 0.5 if key == _WIN_RATE else None
        title = f"Held-out {key.removeprefix('eval/')}{trained} against divergence"
        yield Chart(f"divergence-{name}", title, key, curves, reference=reference)


def _place(point: EvaluationPoint, axis: str) -> float:
    value = point.at(axis)
    return 0.0 if value is None else value


def _divided(found: Sequence[tuple[RunMaterial, Points]]) -> Iterator[Paragraph]:
    """Warn of over-optimisation: the trained reward still rises while another figure falls."""
    if not found:
        return
    keys = [key for key in _figures(found) if key != _REWARD]
    if not keys:
        how = "reward=ensemble with its members, or eval/win_rate"
        yield Paragraph(f"No second reward was measured ({how}), so over-optimisation cannot be detected.", "warning")
    for run, points in found:
        for key in keys:
            yield from _of_figure(run.title, key, [point for point in points if key in point.figures])


def _of_figure(title: str, key: str, known: Points) -> Iterator[Paragraph]:
    if len(known) < 3:
        return
    top, last = max(known, key=lambda point: point.figures[key]), known[-1]
    (high, low), (before, after) = ((top.figures[each], last.figures[each]) for each in (key, _REWARD))
    if low < high and after > before:
        yield Paragraph(
            f"{title}: {key} is highest at step {top.steps} ({top.kl:.3g} nats), then falls from {high:.4g} to {low:.4g} while "
            f"{_REWARD} rises from {before:.4g} to {after:.4g}: a sign of over-optimisation.",
            "warning",
        )
