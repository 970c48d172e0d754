"""Reader of the addresses of this machine at which a port is served."""

from pathlib import Path

_LISTENS = "0A"


def addresses_of(port: int) -> set[str]:
    """Return the IPv4 addresses at which a process listens on `port`, plus "ipv6" if any IPv6 address does."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            place, state = line.split()[1], line.split()[3]
            address, _, number = place.partition(":")
            if int(number, 16) == port and state == _LISTENS:
                parts = bytes.fromhex(address)[::-1]
                found.add("ipv6" if table == "tcp6" else ".".join(map(str, parts)))
    return found
