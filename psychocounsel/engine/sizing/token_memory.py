"""Memory that a token of a micro-batch needs, measured by three short passes of all trained models."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from psychocounsel.data.batch import Batch, build_batch
from psychocounsel.data.group import Group
from psychocounsel.engine.sizing.kept_measures import TokenMemory
from psychocounsel.engine.sizing.process_memory import forget_peak, peak_bytes
from psychocounsel.engine.step import Stepper

SHORT, LONG = 64, 512  # tokens of the two measured micro-batches
_TOO_MUCH = float(1 << 62)  # peak of a pass that ran out of memory


def measure(stepper: Stepper, longest: Group, step_tokens: int) -> TokenMemory:
    """Return the memory of a process, measured with a short and a longer micro-batch.

    Both run forward, backward and through the optimizers; the models stay as they are. An earlier pass creates the
    optimizers' state. `longest` is the longest group and `step_tokens` the tokens of this process in an optimizer step.
    All passes together take less time than such a step, because they have fewer tokens. The largest need of all ranks
    counts.
    """
    world, attention = stepper.world, stepper.main.module.attention
    short = _groups(longest, SHORT, True)
    long = _groups(longest, max(2 * SHORT, min(LONG, step_tokens // 4)), attention.one_row)
    _, *needed = [max(world.gather(_peak(stepper, first, short))) for first in (short, short, long)]
    tokens = [sum(group.tokens for group in groups) for groups in (short, long)]
    per_token = max(1.0, (needed[1] - needed[0]) / max(1, tokens[1] - tokens[0]))
    others = (stepper.main.lanes - 1) * tokens[0]  # tokens of other lanes, in memory at the same time
    return TokenMemory(max(0.0, needed[1] - per_token * (tokens[1] + others)), per_token)


def _groups(group: Group, tokens: int, may_cut: bool) -> list[Group]:
    """Return copies of `group` with about `tokens` tokens in all. They are whole unless `may_cut`.

    `may_cut` must be false where memory is not linear in a row's length.
    """
    if not may_cut or group.tokens <= tokens:
        return [group] * max(1, tokens // group.tokens)
    share = tokens / group.tokens
    completions = [
        replace(completion, ids=completion.ids[: max(1, int(len(completion.ids) * share))])
        for completion in group.completions
    ]
    prompt = group.prompt_ids[: max(1, int(len(group.prompt_ids) * share))]
    return [replace(group, prompt_ids=prompt, completions=completions)]


def _peak(stepper: Stepper, first: Sequence[Group], others: Sequence[Group]) -> float:
    """Return the peak memory of a pass [bytes]: the first lane computes `first`, every other lane `others`."""
    device, lanes = stepper.world.device, stepper.main.lanes
    batches = [_batch(stepper, groups) for groups in [first, *[others] * (lanes - 1)]]
    forget_peak(device)
    try:
        stepper.rehearse(batches)
    except torch.OutOfMemoryError:
        return _TOO_MUCH
    return float(peak_bytes(device))


def _batch(stepper: Stepper, groups: Sequence[Group]) -> Batch:
    attention = stepper.main.module.attention
    rows = [list(groups)] if attention.one_row else [[group] for group in groups]
    return build_batch(rows, weight=0.0, multiple=attention.multiple).to(stepper.world.device)
