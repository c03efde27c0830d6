"""Takes a host's name. Gives the addresses under which what listens there may be reached from elsewhere.

Knows nothing of who listens. No packet is sent for it.
"""

import fcntl
import ipaddress
import socket
import struct
from contextlib import suppress

#: from Linux's <linux/sockios.h>: the IPv4 address of an interface
SIOCGIFADDR = 0x8915


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach a host of that name."""
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def beside(host: str) -> tuple[str, ...]:
    """Give the host itself and, if it is this machine's loopback, this machine's other addresses."""
    return (host, *of_this_machine()) if is_loopback(host) else (host,)


def of_this_machine() -> tuple[str, ...]:
    """List this machine's IPv4 addresses that others may reach it by."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                told = fcntl.ioctl(asking.fileno(), SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
                found.append(socket.inet_ntoa(told[20:24]))
    return tuple(one for one in found if not is_loopback(one))
