"""GPUs, CPUs and memory of nodes, as SLURM writes them."""

import pytest

from psychocounsel.cluster.slurm import partition_offer
from psychocounsel.cluster.slurm.allocation import gpus_of_node
from psychocounsel.cluster.slurm.partition_offer import NodeKind, read_kind, refuse_too_much
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.errors import UserError


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:4", {"": 4}),
        ("gpu:a100:4(S:0-1)", {"a100": 4}),
        ("gpu:4090:8", {"4090": 8}),
        ("gpu:1g.10gb:7,gpu:3g.40gb:1(S:0,2)", {"1g.10gb": 7, "3g.40gb": 1}),
        ("gpu", {"": 1}),
        ("shard:32,gpu:h100:8", {"h100": 8}),
        ("(null)", {}),
    ],
)
def test_gpus_of_every_type_are_counted(gres: str, gpus: dict[str, int]) -> None:
    assert read_kind(f"3|64|515000+|{gres}") == NodeKind(3, 64, 515000, gpus)


@pytest.mark.parametrize(
    ("shown", "gpus"),
    [
        ("TresPerNode=gres/gpu:4", 4),
        ("TresPerNode=gres/gpu:4090:2", 2),
        ("TresPerNode=gres:gpu:a100:8 Partition=x", 8),
        ("TresPerNode=gres/gpu:1g.10gb:7,gres/shard:3", 7),
        ("AllocTRES=cpu=8,mem=1G,node=2,gres/gpu=8,gres/gpu:4090=8", 4),
        ("AllocTRES=cpu=8,mem=1G,node=2", 0),
    ],
)
def test_gpus_of_an_allocation_are_read_from_its_request(shown: str, gpus: int) -> None:
    assert gpus_of_node(f"JobId=7 {shown} Command=(null)", 2) == gpus


def test_more_memory_than_a_node_has_is_answered_by_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_offer, "node_kinds", lambda partition: [NodeKind(4, 8, 63000, {"": 2})])
    refuse_too_much(SlurmRequest(gpus_per_node=2, memory="60G"))
    with pytest.raises(
        UserError, match=r"cluster.memory=900G: the default partition has no such node. It has 4 nodes with 2 GPUs"
    ):
        refuse_too_much(SlurmRequest(gpus_per_node=2, memory="900G"))
