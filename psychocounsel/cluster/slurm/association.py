"""Accounts, QOS and numbers of jobs that a site allows this user, from `sacctmgr`, and the refusal of others."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psychocounsel.cluster.slurm import queue
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.errors import UserError

_FIELDS = "Account,Partition,QOS,MaxSubmitJobs"


@dataclass(frozen=True)
class Association:
    """What this user may do in an account; `partition` "": in all partitions; `most` jobs at a time, None: any number."""

    account: str
    partition: str
    qos: tuple[str, ...]
    most: int | None


def refuse_not_allowed(cluster: SlurmRequest, jobs: int, arrays: Sequence[tuple[int, int]]) -> None:
    """Refuse an account or a QOS that this user does not have, and more `jobs` than the account allows.

    `arrays`: the number of runs and of segments of each array. Accepts everything if the site has no accounting, or it does not
    answer.

    Raises:
        UserError: with what the user may give instead.
    """
    mine = _associations()
    if not mine:
        return
    if cluster.account and cluster.account.lower() not in {one.account.lower() for one in mine}:
        raise UserError(
            f"cluster.account={cluster.account}: is none of your accounts, which are {_names(one.account for one in mine)}"
        )
    mine = [one for one in mine if not cluster.account or one.account.lower() == cluster.account.lower()]
    where = f"account {cluster.account}" if cluster.account else "your accounts"
    allowed = [name for one in mine for name in one.qos]
    if cluster.qos and allowed and cluster.qos not in allowed:
        raise UserError(f"cluster.qos={cluster.qos}: {where} may use {_names(allowed)}")
    limits = [one.most for one in mine]
    if (
        (most := max((limit for limit in limits if limit is not None), default=None))
        and None not in limits
        and jobs > most
    ):
        share = not cluster.server_nodes  # a job with server nodes holds one run
        raise UserError(f"{jobs} jobs: {where} may submit {most}; {_fewer(arrays, most, share)}")


def _fewer(arrays: Sequence[tuple[int, int]], most: int, share: bool) -> str:
    """Return what to type so that these arrays are at most `most` jobs; with `share`, a job may hold several runs."""
    for number in range(1, max(runs for runs, _ in arrays) + 1 if share else 1):
        if sum(-(-runs // number) * segments for runs, segments in arrays) <= most:
            return f"cluster.runs_per_job={number} puts as many runs into one job, one after another"
    segments = max(segments for _, segments in arrays)
    if segments > 1:
        return f"lower cluster.segments={segments}, because each run is a chain of as many jobs"
    return "submit fewer runs at a time"


def _names(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _associations() -> list[Association]:
    if not shutil.which("sacctmgr"):
        return []
    try:
        printed = queue.call(
            "sacctmgr", "-n", "-P", "show", "assoc", "where", f"user={queue.user()}", f"format={_FIELDS}"
        )
    except UserError:  # no accounting, or its database does not answer
        return []
    lines = [line.split("|") for line in printed.splitlines()]
    return [
        Association(account, partition, tuple(filter(None, qos.split(","))), int(most) if most.isdigit() else None)
        for account, partition, qos, most in (line for line in lines if len(line) == 4)
    ]
