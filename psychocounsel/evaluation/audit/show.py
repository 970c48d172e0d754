"""Printed table of an audit: lines of figures, without any text of the data."""

from collections.abc import Iterator
from typing import Any

from psychocounsel.evaluation.audit.blind import MOST_TOPIC_FOLDS, TITLES
from psychocounsel.evaluation.audit.topics import CLUSTERS, NONE

Figures = dict[str, Any]

_CUES = 5  # single cues to show
_TITLE, _SHARE = 36, 30  # column widths [characters]
_CONDITIONS = {"own": "own", "swapped": "another client's", "removed": "without it"}


def lines_of(data: str, reward: str | None, figures: Figures) -> Iterator[str]:
    """Yield the lines of the table. `data` and `reward`: names of the data group and of the reward group."""
    counts = figures["counts"]
    yield f"\ndata={data}: {counts['pairs']} pairs; distinct texts: {counts['prompts']} prompts, {counts['replies']} replies"
    yield (
        f"{counts['components']} components, which share no prompt and no reply; the largest has "
        f"{counts['largest_component']} pairs. Folds and intervals are by component."
    )
    if 2 * counts["largest_component"] > counts["pairs"]:
        yield "warning: one component holds more than half of the pairs, so folds are uneven and intervals unreliable"
    yield from _blind(figures["blind"], figures["topics"])
    yield from _reading(figures["reading"], reward)
    yield from _ratings(figures["halo"], figures["disagreement"], figures["contradictions"])
    yield from _texts(figures["repeats"], figures["against"], counts)
    yield from _gate(figures["gate"], figures["blind"]["baselines"])


def _blind(blind: Figures, topics: Figures) -> Iterator[str]:
    yield "\nWithout the client's speech"
    yield f"  {'':<{_TITLE}}{'folds of prompts':<{_SHARE}}{_left_out(topics)}"
    for name, found in blind["baselines"].items():
        row = f"  {TITLES[name]:<{_TITLE}}{_share(found['by_prompt']):<{_SHARE}}"
        yield (row + (_share(found["by_topic"]) if "by_topic" in found else "")).rstrip()
    yield from _unjudged(blind["baselines"]["best_cue"], topics)
    maximum = blind["maximum"]
    yield (
        f"  The best of {len(blind['cues'])} cues ({maximum['cue']}) wins {_percent(maximum['accuracy'])}; with random labels "
        f"the best would win {_percent(maximum['low'])} to {_percent(maximum['high'])} (p = {maximum['p']:.2g})."
    )
    ranked = sorted(blind["cues"].items(), key=lambda item: -abs(item[1]["accuracy"] - 0.5))
    for name, found in ranked[:_CUES]:
        larger = found["accuracy"] >= 0.5
        figure = found if larger else _mirrored(found)
        title = f"{'more' if larger else 'less'} of `{name}` wins"
        yield f"  {title:<{_TITLE}}{_share(figure):<{_SHARE}}decides {found['decides']} pairs"


def _unjudged(found: Figures, topics: Figures) -> Iterator[str]:
    judged, every = found.get("by_topic", {}).get("judged", 0), found["by_prompt"]["judged"]
    if topics["source"] != NONE and judged < every:
        yield (
            f"  By topic, only {judged} of {every} pairs are tested: for the others, too few pairs of other topics without a "
            "shared text remain to fit a baseline."
        )


def _left_out(topics: Figures) -> str:
    if topics["source"] == NONE:
        return "(too few prompts for topics)"
    clusters = "clusters of prompts, because not all rows name a topic, or all name the same"
    what = clusters if topics["source"] == CLUSTERS else "topics of the data"
    folds = f", in {MOST_TOPIC_FOLDS} folds" if topics["count"] > MOST_TOPIC_FOLDS else ""
    return f"leaving out each of {topics['count']} {what}{folds}"


def _reading(reading: Figures, reward: str | None) -> Iterator[str]:
    yield "\nWith the client's speech"
    yield f"  {'':<{_TITLE}}{'accuracy':<{_SHARE}}gain from the client's own speech"
    for name, found in reading.items():
        title = f"reward={reward}" if name == "reward" else "word overlap"
        for condition, words in _CONDITIONS.items():
            if condition in found:
                gain = found["gains"].get(condition)
                row = f"  {f'{title}, {words}':<{_TITLE}}{_share(found[condition]):<{_SHARE}}"
                yield (row + (_points(gain) if gain else "")).rstrip()
        if flipped := found["flipped"]:
            row = f"  {f'{title}, flipped pairs':<{_TITLE}}{_share(_accuracy_of(flipped)):<{_SHARE}}"
            yield f"{row}of {flipped['flipped_pairs']} pairs; a scorer that does not read wins half"
        if found["left_out"]:
            yield f"  {title}: {found['left_out']} pairs skipped, because they are too long for it in one of these conditions"


def _ratings(halo: Figures | None, disagreement: Figures | None, contradictions: Figures) -> Iterator[str]:
    if halo is None:
        yield "\nRatings: the data have none, so halo and ceiling are unknown."
    else:
        yield f"\nRatings of {halo['replies']} replies"
        yield (
            f"  Cronbach's alpha {_number(halo['alpha'])}, first component {_percent(halo['first_component'])}, "
            f"mean correlation {_number(halo['mean_correlation'])}"
        )
        yield f"  {'':<{_TITLE}}{'mean':<8}{'at the top':<13}correlation with the others"
        for name, found in halo["principles"].items():
            top = _percent(found["at_top"])
            yield f"  {name:<{_TITLE}}{found['mean']:<8.2f}{top:<13}{_number(found['with_others'])}"
    if disagreement:
        yield (
            f"  Disagreement: {disagreement['replies']} of {disagreement['of']} replies have several different ratings; "
            f"their standard deviation is {disagreement['deviation']:.2f} on average."
        )
    elif halo is not None:
        yield "  Disagreement: unknown, because no reply has several different ratings."
    if contradictions["repeated"]:
        yield (
            f"  Of {contradictions['repeated']} pairs (same prompt, same two replies) that occur several times, "
            f"{contradictions['contradicted']} are labelled both ways round."
        )


def _texts(repeats: Figures, against: dict[str, Figures], counts: Figures) -> Iterator[str]:
    yield "\nDuplicates"
    yield (
        f"  {repeats['repeated_pairs']} pairs repeat an earlier one; {repeats['reused_replies']} replies occur under several "
        f"prompts, in {repeats['pairs_with_reused']} pairs"
    )
    yield (
        f"  near duplicates: {repeats['near_prompts']} prompts and {repeats['near_replies']} replies, among them "
        f"{repeats['near_prompts_apart']} and {repeats['near_replies_apart']} across components; "
        f"{repeats['near_pairs']} pairs whose two replies are near duplicates of each other"
    )
    for name, found in against.items():
        yield (
            f"  shared with {name} ({found['rows']} rows): {found['prompts']} prompts and {found['replies']} replies are equal, "
            f"{found['near_prompts']} and {found['near_replies']} more are near duplicates; {found['pairs']} of "
            f"{counts['pairs']} pairs contain one"
        )


def _gate(gate: Figures, baselines: dict[str, Figures]) -> Iterator[str]:
    if gate["limit"] is None:
        return
    figures = _share(baselines[gate["baseline"]]["by_prompt"])
    said = {
        "passed": "passed: the interval is below the limit",
        "refused": "refused: the interval is above the limit",
        "undecided": "undecided: the interval includes the limit",
    }[gate["verdict"]]
    yield f"\naudit.max_blind={gate['limit']:g}: {TITLES[gate['baseline']]} {figures}; {said}"


def _share(figures: Figures) -> str:
    return f"{_percent(figures['accuracy'])}  ({_percent(figures['low'])} to {_percent(figures['high'])})"


def _accuracy_of(flipped: Figures) -> Figures:
    names = {"accuracy": "flipped_accuracy", "low": "flipped_accuracy_low", "high": "flipped_accuracy_high"}
    return {short: flipped[name] for short, name in names.items()}


def _mirrored(figures: Figures) -> Figures:
    """Return the figures of preferring the smaller value instead of the larger one."""
    return {"accuracy": 1 - figures["accuracy"], "low": 1 - figures["high"], "high": 1 - figures["low"]}


def _points(gain: Figures) -> str:
    """Format a gain with its interval in percentage points."""
    return f"{100 * gain['gain']:.1f} points ({100 * gain['low']:.1f} to {100 * gain['high']:.1f})"


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.2f}"
