"""Choice of gloo's network interface: NCCL's, or loopback on one machine.

By default gloo looks up the machine's own name, which may not resolve.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Sequence

_GLOO, _NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"
_ASK_ADDRESS = 0x8915  # SIOCGIFADDR
_LOCAL = ("lo", "docker", "virbr", "veth")  # interfaces that reach no other machine


def name_interface(on_one_machine: bool) -> None:
    """Set gloo's interface in the environment, unless the user has set it."""
    if on_one_machine:  # a container's own name may not resolve
        os.environ.setdefault(_GLOO, "lo")
    elif _GLOO not in os.environ and (asked := os.environ.get(_NCCL)):
        names = [name for _, name in socket.if_nameindex()]
        if found := chosen(asked, [name for name in names if _has_address(name)]):
            os.environ[_GLOO] = found[0]


def chosen(asked: str, interfaces: Sequence[str]) -> list[str]:
    """Return the members of `interfaces` selected by NCCL_SOCKET_IFNAME=`asked`.

    `asked` lists prefixes of names. "=" before the list means whole names, and "^" means names to exclude.
    """
    leaves_out, rest = asked.startswith("^"), asked.removeprefix("^")
    whole, rest = rest.startswith("="), rest.removeprefix("=")
    names = [name.partition(":")[0] for name in rest.split(",") if name]
    named = {each for each in interfaces for name in names if (each == name if whole else each.startswith(name))}
    if leaves_out:
        return [each for each in interfaces if each not in named and not each.startswith(_LOCAL)]
    return [each for each in interfaces if each in named]


def _has_address(interface: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe, _ASK_ADDRESS, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return False
    return True
