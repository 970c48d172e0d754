"""Tests of a rank's view of its machine: the driver of its GPUs, and gloo's network interface."""

import os
import socket

import pytest

from psychocounsel.distributed.gpu import driver_cuda, own_gpu, problem
from psychocounsel.distributed.world import _address_of, chosen, name_interface
from psychocounsel.errors import UserError

NAMES = ["lo", "docker0", "eth0", "eth1", "ib0"]


@pytest.mark.parametrize(
    ("built_for", "driver", "sees", "told"),
    [
        ("13.0", (13, 0), True, ""),
        ("13.2", (13, 0), True, ""),
        ("12.6", (13, 1), True, ""),
        ("13.0", (12, 8), True, "this NVIDIA driver supports CUDA 12.8 at most: use a node with a newer driver"),
        ("13.0", None, False, "no NVIDIA driver was found"),
        ("13.0", (13, 0), False, "sees no GPU"),
        (None, (13, 0), False, "is built without CUDA"),
        (None, None, True, ""),
    ],
)
def test_an_old_driver_is_told_from_other_reasons(
    built_for: str | None, driver: tuple[int, int] | None, sees: bool, told: str
) -> None:
    said = problem(built_for, driver, sees)
    assert told in said and bool(told) == bool(said) and "\n" not in said


@pytest.mark.skipif(os.path.exists("/dev/nvidiactl"), reason="there is a driver")
def test_no_driver_is_no_error() -> None:
    assert driver_cuda() is None


@pytest.mark.parametrize(("local_rank", "visible", "expected"), [(0, 4, 0), (3, 4, 3), (3, 1, 0), (0, 1, 0)])
def test_a_process_that_sees_one_gpu_takes_it(local_rank: int, visible: int, expected: int) -> None:
    assert own_gpu(local_rank, visible) == expected


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(UserError, match="sees only 2 GPUs: start at most 2 processes on a node"):
        own_gpu(3, 2)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("eth", ["eth0", "eth1"]),
        ("=eth", []),
        ("=eth1,ib0", ["eth1", "ib0"]),
        ("ib", ["ib0"]),
        ("^eth", ["ib0"]),
        ("^=eth0", ["eth1", "ib0"]),
        ("eth1:3", ["eth1"]),
        ("en", []),
    ],
)
def test_gloo_takes_the_interface_that_nccl_is_told(asked: str, expected: list[str]) -> None:
    assert chosen(asked, NAMES) == expected


@pytest.mark.parametrize(
    ("given", "host", "expected"),
    [
        ({}, "", "lo"),
        ({}, "127.0.0.1", ""),
        ({}, "no name", ""),
        ({"NCCL_SOCKET_IFNAME": "=lo"}, "192.0.2.1", "lo"),
        ({"NCCL_SOCKET_IFNAME": "nothing-of-this-name"}, "192.0.2.1", ""),
        ({"NCCL_SOCKET_IFNAME": "=lo", "GLOO_SOCKET_IFNAME": "eth7"}, "192.0.2.1", "eth7"),
        ({"GLOO_SOCKET_IFNAME": "eth7"}, "", "eth7"),
    ],
)
def test_gloo_is_told_its_interface(given: dict[str, str], host: str, expected: str, own_environment: None) -> None:
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        os.environ.pop(name, None)
    os.environ.update(given)
    name_interface(host)
    assert os.environ.get("GLOO_SOCKET_IFNAME", "") == expected


def test_gloo_takes_the_interface_by_which_a_machine_reaches_rank_0(own_environment: None) -> None:
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        os.environ.pop(name, None)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.77", 1))
        except OSError:
            pytest.skip("this machine has no network")
        address = probe.getsockname()[0]
    for host in ("192.0.2.77", address):  # as seen from other machines, and from the machine of rank 0
        os.environ.pop("GLOO_SOCKET_IFNAME", None)
        name_interface(host)
        interface = os.environ["GLOO_SOCKET_IFNAME"]
        assert interface != "lo" and _address_of(interface) == address
