"""Nodes of a partition, and the refusal of jobs that request more nodes, GPUs, CPUs or memory than the partition has."""

import re
from dataclasses import dataclass

from psychocounsel.cluster.slurm import queue
from psychocounsel.cluster.slurm.request import SlurmRequest, counted
from psychocounsel.errors import UserError


@dataclass(frozen=True)
class NodeKind:
    """A number of equal nodes of a partition; `gpus` by type ("" if the site names none); `memory` in mebibytes."""

    nodes: int
    cpus: int
    memory: int
    gpus: dict[str, int]

    def words(self) -> str:
        gpus = ", ".join(counted(count, f"{kind} GPU".strip()) for kind, count in self.gpus.items()) or "no GPU"
        return f"{counted(self.nodes, 'node')} with {gpus}, {self.cpus} CPUs and {self.memory // 1024} GB"


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
        request = f"cluster.cpus_per_process={cluster.cpus_per_process} requests {counted(cpus, 'CPU')} per node"
        raise UserError(f"{request}: {where} has no such node. It has {offer}")
    if not (fitting := [kind for kind in fitting if kind.memory >= cluster.node_megabytes]):
        raise UserError(f"cluster.memory={cluster.memory}: {where} has no such node. It has {offer}")
    if nodes > (available := sum(kind.nodes for kind in fitting)):
        key = "cluster.nodes" if not cluster.server_nodes else "cluster.nodes with cluster.server_nodes"
        enough = "" if fitting == kinds else " with enough GPUs, CPUs and memory"
        raise UserError(f"{key}={nodes}: {where} has only {counted(available, 'node')}{enough}. It has {offer}")


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
