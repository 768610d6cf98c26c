"""The guard against addresses inside: a connection goes only where it may, whatever a URL or a name says.

It looks at the very address that is about to be connected to. So it makes no difference whether a URL has a literal in
any spelling, or a name that leads elsewhere at the second look-up. Its own table decides, and not
`ipaddress.is_global`, which differs between versions of Python and takes NAT64 and 6to4 for public.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence
from typing import Any, Final

import aiohttp

from watchbill.settings import Network

_V4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # public by its number, and inside of every machine in Azure
        "169.254.0.0/16",  # link-local, with the metadata of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocols
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, with broadcast
    )
)
_V6_PUBLIC: Final = ipaddress.IPv6Network("2000::/3")
"""All else is loopback, unspecified, link-local, unique-local, multicast, NAT64, IPv4-mapped, or not given out."""
_V6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocols, with Teredo, which has an IPv4 address in it
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: an IPv4 address follows
        "3fff::/20",  # documentation
    )
)


DELIVERIES: Final = "results may be delivered to"


class AddressRefused(OSError):
    """A connection to this address is not allowed. `address` is it; the text is the same for all addresses, because
    who tries several of a name then raises this error, and not a summary."""

    def __init__(self, address: str, purpose: str = DELIVERIES) -> None:
        self.address = address
        super().__init__(f"the address is not one that {purpose}")


class Guard:
    """Decides which addresses may be connected to."""

    def __init__(self, allow: Sequence[Network] = (), *, public: bool = True, purpose: str = DELIVERIES) -> None:
        """`allow`: networks inside that may be connected to. `public`: public addresses may be, too. `purpose` says in
        errors what the addresses are for."""
        self._purpose = purpose
        self._allow = tuple(allow)
        self._public = public

    def check(self, address: str) -> None:
        """Raises AddressRefused unless this address, a literal, may be connected to."""
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            raise AddressRefused(address, self._purpose) from None
        # An IPv4 address within an IPv6 one is in none of the IPv4 networks, and so in none that is allowed.
        if any(found in network for network in self._allow):
            return
        if not (self._public and _is_public(found)):
            raise AddressRefused(address, self._purpose)

    def socket(self, info: tuple[Any, ...]) -> socket.socket:
        """Makes the socket for one result of getaddrinfo. Raises AddressRefused."""
        family, kind, protocol, _, address = info
        self.check(str(address[0]))
        return socket.socket(family, kind, protocol)

    def connector(self, **options: Any) -> aiohttp.TCPConnector:
        """A connector of aiohttp whose connections all pass the guard. `options` are the connector's own."""
        return aiohttp.TCPConnector(socket_factory=self.socket, **options)


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _V4)
    return address in _V6_PUBLIC and not any(address in network for network in _V6)
