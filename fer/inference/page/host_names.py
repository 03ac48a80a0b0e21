"""Names under which browsers may reach fer-demo: a page of another host must not speak to it by a name of its own."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

from fer.errors import ConfigError

_HOST = re.compile(r"(?P<name>[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])(:[0-9]{1,5})?")
_NAME = re.compile(r"[a-z0-9_.-]{1,253}")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class HostNames:
    """The names that a Host header may give.

    These are the loopback names, the bound host, the address of the connection itself and, where the server listens to
    every address, the name of the machine. No name of a stranger's is among them that leads here by DNS.

    Args:
        bound: ``--host`` of fer-demo.
        address: where the socket listens.
        more: names of a proxy.

    Raises:
        ConfigError: one of these is no name.
    """

    def __init__(self, bound: str, address: str, more: Iterable[str] = ()) -> None:
        more = _checked(more)
        names = {str(bound).lower(), address, *_LOOPBACK, *more}
        if ip_address(address.partition("%")[0]).is_unspecified:
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        self._names = frozenset(map(_canonical, names))

    def allows(self, host: str, connected: str | None) -> bool:
        """Tell whether a client that has connected to an address may ask for ``NAME`` or ``NAME:PORT``."""
        found = _HOST.fullmatch(host.lower())
        if found is None:
            return False
        name = _canonical(found["name"].strip("[]"))
        return name in self._names or (connected is not None and name == _canonical(connected))


def _checked(names: Iterable[str]) -> list[str]:
    checked = [name.lower() for name in names]
    for name in checked:
        if not _NAME.fullmatch(name) and not isinstance(_canonical(name), IPv4Address | IPv6Address):
            raise ConfigError(f"--allowed-host {name!r} is not the name of a host, which has neither scheme nor port")
    return checked


def _canonical(name: str) -> str | IPv4Address | IPv6Address:
    """An address in whatever way it is spelled as one object; another name as it is."""
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return name
    return getattr(address, "ipv4_mapped", None) or address
