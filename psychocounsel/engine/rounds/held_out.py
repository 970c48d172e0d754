"""What the policy says to held-out prompts, and how it compares with what it said before training."""

from pathlib import Path

from psychocounsel.data.group import Array, Group, read_groups, write_groups
from psychocounsel.errors import UserError
from psychocounsel.metrics.replies import reply_metrics
from psychocounsel.metrics.winrate import win_rate
from psychocounsel.rundir.run import Run


def held_out_metrics(run: Run, step: int, groups: list[Group], reference: list[list[Array]] | None) -> dict[str, float]:
    """`eval/...` of the scored replies in `groups` after `step` steps: the figures of `reply_metrics`, and the win rate.

    It is against the replies of step 0, which stay in RUN/rounds/before.parquet for runs that go on.

    Raises:
        UserError: if that file is gone.
    """
    file = run.files.before
    if not step and run.is_main:
        file.parent.mkdir(exist_ok=True)
        write_groups(file, groups)
    metrics = reply_metrics(groups, reference, "eval")
    if metrics:
        prompts = [group.prompt_ids.tobytes() for group in groups]
        found = win_rate(_rewards(groups), _rewards(_before(file) if step else groups), prompts)
        metrics |= {f"eval/{name}": value for name, value in found.items()}
    return metrics


def _before(file: Path) -> list[Group]:
    if not file.exists():
        raise UserError(f"{file}: is gone, which eval/win_rate compares with: restore it, or use another run_dir")
    return read_groups(file)


def _rewards(groups: list[Group]) -> list[list[float]]:
    return [[reply.reward or 0.0 for reply in group.completions] for group in groups]
