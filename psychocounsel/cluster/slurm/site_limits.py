"""What a site has and allows: nodes of a partition, accounts, QOS and numbers of jobs; jobs that request more are refused."""

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from psychocounsel.cluster.slurm import queue
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.errors import UserError
from psychocounsel.storage.files import with_noun

# Nodes of a partition, from `sinfo`


@dataclass(frozen=True)
class NodeKind:
    """A number of equal nodes of a partition; `gpus` by type ("" if the site names none); `memory` in mebibytes."""

    nodes: int
    cpus: int
    memory: int
    gpus: dict[str, int]

    def words(self) -> str:
        gpus = ", ".join(with_noun(count, f"{kind} GPU".strip()) for kind, count in self.gpus.items()) or "no GPU"
        return f"{with_noun(self.nodes, 'node')} with {gpus}, {self.cpus} CPUs and {self.memory // 1024} GB"


def node_kinds(partition: str | None) -> list[NodeKind]:
    """Return the kinds of nodes of a partition, or of the default one; empty if SLURM does not tell."""
    if partition is None and (default := queue.time_limit(None)):
        partition = default[0]
    if partition is None:
        return []
    printed = queue.call("sinfo", "-h", "--exact", "-p", partition, "-o", "%D|%c|%m|%G")
    return [kind for line in printed.splitlines() if (kind := read_kind(line))]


def read_kind(line: str) -> NodeKind | None:
    """Return the nodes that a line of sinfo (%D|%c|%m|%G) describes; None for another line.

    A type of GPUs may begin with a digit: `gpu:4090:8`, `gpu:1g.10gb:7`.
    """
    parts = [re.sub(r"\+$", "", part) for part in line.split("|")]
    if len(parts) != 4 or not all(part.isdigit() for part in parts[:3]):
        return None
    gpus = dict[str, int]()
    for resource in re.sub(r"\([^)]*\)", "", parts[3]).split(","):
        name, *kind, count = resource.split(":") if ":" in resource else (resource, "1")
        if name == "gpu" and count.isdigit():
            gpus[":".join(kind)] = gpus.get(":".join(kind), 0) + int(count)
    nodes, cpus, memory = map(int, parts[:3])
    return NodeKind(nodes, cpus, memory, gpus)


def refuse_too_much(cluster: SlurmRequest) -> None:
    """Refuse more nodes, or more GPUs, CPUs or memory per node, than a partition has.

    Raises:
        UserError: with the partition's nodes; or if SLURM is not available.
    """
    kinds = node_kinds(cluster.partition)
    if not kinds:
        return
    nodes, gpus, cpus = cluster.nodes + cluster.server_nodes, cluster.gpus_per_node, cluster.cpus_per_node
    with_gpus = [kind for kind in kinds if _has_gpus(kind, cluster)]
    fitting = [kind for kind in with_gpus if kind.cpus >= cpus]
    offer = "; ".join(kind.words() for kind in kinds)
    where = f"partition {cluster.partition}" if cluster.partition else "the default partition"
    if not with_gpus:
        kind = f" of type {cluster.gpu_type}" if cluster.gpu_type else ""
        raise UserError(f"cluster.gpus_per_node={gpus}{kind}: {where} has no such node. It has {offer}")
    if not fitting:
        request = f"cluster.cpus_per_process={cluster.cpus_per_process} requests {with_noun(cpus, 'CPU')} per node"
        raise UserError(f"{request}: {where} has no such node. It has {offer}")
    if not (fitting := [kind for kind in fitting if kind.memory >= cluster.node_megabytes]):
        raise UserError(f"cluster.memory={cluster.memory}: {where} has no such node. It has {offer}")
    if nodes > (available := sum(kind.nodes for kind in fitting)):
        key = "cluster.nodes" if not cluster.server_nodes else "cluster.nodes with cluster.server_nodes"
        enough = "" if fitting == kinds else " with enough GPUs, CPUs and memory"
        raise UserError(f"{key}={nodes}: {where} has only {with_noun(available, 'node')}{enough}. It has {offer}")


def mixture_warning(cluster: SlurmRequest) -> list[str]:
    """Return a warning if SLURM may give a run GPUs of several types: all wait for the slowest, and results differ by run."""
    if not cluster.gpus() or cluster.gpu_type:
        return []
    kinds = [kind.gpus for kind in node_kinds(cluster.partition) if _has_gpus(kind, cluster)]
    types = sorted({name for gpus in kinds for name in gpus if name})
    in_a_node = cluster.gpus_per_node > 1 and any(len(gpus) > 1 for gpus in kinds)
    if len(types) < 2 or not (in_a_node or cluster.nodes > 1):
        return []
    enough = sorted({name for gpus in kinds for name, count in gpus.items() if name and count >= cluster.gpus_per_node})
    advice = (
        f"name one: cluster.gpu_type={enough[0]}"
        if enough
        else "no node has as many of one: lower cluster.gpus_per_node"
    )
    return [f"warning: a run may get GPUs of the types {', '.join(types)}; {advice}"]


def _has_gpus(kind: NodeKind, cluster: SlurmRequest) -> bool:
    counts = [count for name, count in kind.gpus.items() if not cluster.gpu_type or name == cluster.gpu_type]
    return cluster.gpus_per_node <= sum(counts)


# Accounts, QOS and numbers of jobs, from `sacctmgr`

_FIELDS = "Account,QOS,MaxSubmitJobs"


@dataclass(frozen=True)
class Association:
    """Limits of this user in one account.

    Attributes:
        account: name of the account.
        qos: QOS that the user may ask for.
        most: largest number of jobs at a time; None: no limit.
    """

    account: str
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
        Association(account, tuple(filter(None, qos.split(","))), int(most) if most.isdigit() else None)
        for account, qos, most in (line for line in lines if len(line) == 3)
    ]
