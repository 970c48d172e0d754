"""GPUs, CPUs and memory of nodes, partitions and associations, as SLURM writes them."""

from pathlib import Path
from typing import Any

import pytest

from psychocounsel.cluster.slurm import site_limits
from psychocounsel.cluster.slurm.allocation import gpus_of_node
from psychocounsel.cluster.slurm.queue import time_limit
from psychocounsel.cluster.slurm.request import SlurmRequest
from psychocounsel.cluster.slurm.site_limits import (
    NodeKind,
    mixture_warning,
    read_kind,
    refuse_not_allowed,
    refuse_too_much,
)
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
    monkeypatch.setattr(site_limits, "node_kinds", lambda partition: [NodeKind(4, 8, 63000, {"": 2})])
    refuse_too_much(SlurmRequest(gpus_per_node=2, memory="60G"))
    with pytest.raises(
        UserError, match=r"cluster.memory=900G: the default partition has no such node. It has 4 nodes with 2 GPUs"
    ):
        refuse_too_much(SlurmRequest(gpus_per_node=2, memory="900G"))


@pytest.mark.parametrize(
    ("kinds", "settings", "types"),
    [
        ([{"a100": 4}, {"h100": 4}], {"nodes": 2}, "a100, h100"),
        ([{"1g.10gb": 7, "3g.40gb": 1}], {"gpus_per_node": 2}, "1g.10gb, 3g.40gb"),
        ([{"a100": 4}, {"h100": 4}], {"nodes": 2, "gpu_type": "h100"}, ""),
        ([{"a100": 4}, {"h100": 4}], {"nodes": 1, "gpus_per_node": 4}, ""),
        ([{"a100": 4}, {"h100": 1}], {"nodes": 2, "gpus_per_node": 4}, ""),
        ([{"": 4}], {"nodes": 2}, ""),
    ],
)
def test_a_run_that_may_get_several_types_of_gpus_is_warned_of(
    kinds: list[dict[str, int]], settings: dict[str, Any], types: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = [NodeKind(4, 8, 63000, gpus) for gpus in kinds]
    monkeypatch.setattr(site_limits, "node_kinds", lambda partition: offered)
    lines = mixture_warning(SlurmRequest(**settings))
    named = f"types {types}; name one: cluster.gpu_type={types.partition(',')[0]}"
    assert [named in line for line in lines] == ([True] if types else [])


def test_a_type_is_named_only_if_a_node_has_enough_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_limits, "node_kinds", lambda partition: [NodeKind(4, 8, 63000, {"a100": 2, "v100": 2})])
    assert mixture_warning(SlurmRequest(gpus_per_node=4))[0].endswith(
        "; no node has as many of one: lower cluster.gpus_per_node"
    )


def test_memory_per_gpu_and_per_cpu_counts_for_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_limits, "node_kinds", lambda partition: [NodeKind(4, 64, 100_000, {"": 4})])
    refuse_too_much(SlurmRequest(gpus_per_node=4, memory="20G", memory_per="gpu"))
    with pytest.raises(UserError, match="cluster.memory=30G"):
        refuse_too_much(SlurmRequest(gpus_per_node=4, memory="30G", memory_per="gpu"))
    with pytest.raises(UserError, match="cluster.memory=8G"):
        refuse_too_much(SlurmRequest(gpus_per_node=4, cpus_per_process=4, memory="8G", memory_per="cpu"))
    assert SlurmRequest(gpus_per_node=4, memory="20G", memory_per="gpu").host_memory() == 80 * 2**30


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of commands that print what a site's SLURM prints."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def command(name: str, printed: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'END'\n{printed}END\n")
        (tmp_path / name).chmod(0o755)

    command("sacctmgr", "lab|high,normal|20\nguest|normal|\n")
    command(
        "scontrol",
        "PartitionName=main Default=YES MaxTime=1-00:00:00 Nodes=n1\nPartitionName=short Default=NO MaxTime=00:30:00 Nodes=n1\n",
    )
    return tmp_path


@pytest.mark.parametrize(
    ("request_", "jobs", "said"),
    [
        ({"account": "lab"}, 20, ""),
        ({"account": "LAB", "qos": "high"}, 1, ""),
        ({"account": "guest"}, 900, ""),
        ({}, 900, ""),
        ({"account": "foo"}, 1, "cluster.account=foo: is none of your accounts, which are lab, guest"),
        ({"account": "guest", "qos": "high"}, 1, "cluster.qos=high: account guest may use normal"),
        ({"qos": "best"}, 1, "cluster.qos=best: your accounts may use high, normal"),
        (
            {"account": "lab"},
            50,
            "50 jobs: account lab may submit 20; cluster.runs_per_job=3 puts as many runs into one job",
        ),
    ],
)
def test_accounts_qos_and_numbers_of_jobs_are_answered_by_their_keys(
    request_: dict[str, str], jobs: int, said: str, says: Path
) -> None:
    if not said:
        refuse_not_allowed(SlurmRequest(**request_), jobs, [(jobs, 1)])
        return
    with pytest.raises(UserError, match=said):
        refuse_not_allowed(SlurmRequest(**request_), jobs, [(jobs, 1)])
    (says / "sacctmgr").write_text(
        "#!/bin/sh\necho 'You are not running a supported accounting_storage plugin' >&2\nexit 1\n"
    )
    refuse_not_allowed(SlurmRequest(**request_), jobs, [(jobs, 1)])  # a site without accounting


@pytest.mark.parametrize(
    ("jobs", "arrays", "advice"),
    [
        (25, [(100, 1)], "cluster.runs_per_job=5 puts"),  # typed: runs_per_job=4
        (30, [(6, 5)], "cluster.runs_per_job=2 puts"),
        (150, [(30, 5)], "cluster.runs_per_job=8 puts"),
        (23, [(20, 1), (2, 1), (1, 1)], "cluster.runs_per_job=2 puts"),
        (25, [(1, 25)], "lower cluster.segments=25, because each run is a chain of as many jobs"),
        (21, [(1, 1)] * 21, "submit fewer runs at a time"),
    ],
)
def test_the_advice_on_too_many_jobs_makes_few_enough(
    jobs: int, arrays: list[tuple[int, int]], advice: str, says: Path
) -> None:
    with pytest.raises(UserError) as refused:
        refuse_not_allowed(SlurmRequest(account="lab"), jobs, arrays)
    assert str(refused.value).startswith(f"{jobs} jobs: account lab may submit 20; {advice}")


def test_runs_with_server_nodes_share_no_job(says: Path) -> None:
    with pytest.raises(UserError, match="submit fewer runs at a time"):
        refuse_not_allowed(SlurmRequest(account="lab", server_nodes=1), 25, [(25, 1)])


def test_an_unknown_partition_is_answered_with_those_that_exist(says: Path) -> None:
    assert time_limit(None) == ("main", 86400) and time_limit("short") == ("short", 1800)
    assert time_limit("short,main") == ("short,main", 86400)
    with pytest.raises(
        UserError, match="cluster.partition=short,nowhere: there is no partition nowhere; choose from main, short"
    ):
        time_limit("short,nowhere")
