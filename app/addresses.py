"""Client addresses: which of them share a rate limit, and which are near enough for the example key."""

from collections.abc import Callable
from functools import lru_cache, wraps
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

UNKNOWN = "unknown"
"""What stands for a client whose proxy names no address for it."""


LONGEST = 128
"""Characters of an address as proxies write it, at most: what is longer is none, and is not remembered either."""


def _remembered(told: Callable[[str], str]) -> Callable[[str], str]:
    """The same, remembered of the last clients: each request asks, for its limit and its line of the log."""
    known = lru_cache(1_024)(told)
    return wraps(told)(lambda host: known(host) if len(host) <= LONGEST else UNKNOWN)


@_remembered
def bucket(host: str) -> str:
    """The address that a rate limit counts: IPv6 by /64, since one host may use 2^64 of them."""
    address = _parse(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address), 64), strict=False))
    return str(address) if address else UNKNOWN  # one bucket, or each made-up word would be a fresh client


def is_near(host: str) -> bool:
    """Whether `host` is on loopback, in a private network, or a unix socket (no address at all)."""
    address = _parse(host)
    if address is None:
        return not host
    return address.is_loopback or address.is_private or address.is_link_local


@_remembered
def plain(host: str) -> str:
    """`host` as an address without port and brackets, so that nothing a client wrote gets any further."""
    return str(_parse(host) or UNKNOWN)


def proxies(listed: str) -> str:
    """Addresses and networks, comma-separated, in the form in which uvicorn looks them up; `*` is everybody.

    uvicorn takes what it cannot parse for a name that never matches, and does not find 10.0.0.1 in the
    ::ffff:10.0.0.1 that a socket on both protocols reports. Raises ValueError.
    """
    parts = [part.strip() for part in listed.split(",") if part.strip()]
    if "*" in parts:
        return "*"
    networks = []
    for part in parts:
        try:
            network = ip_network(part)
        except ValueError:
            raise ValueError(f"{part!r} is no address, no network like 10.0.0.0/8 and not *") from None
        networks.append(str(network))
        if isinstance(network, IPv4Network):
            networks.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return ",".join(networks)


def _parse(host: str) -> IPv4Address | IPv6Address | None:
    """The address in what proxies write: `::1`, `[::1]`, `[::1]:443`, `192.0.2.1:443`, `fe80::1%eth0`, also quoted."""
    if len(host) > LONGEST:
        return None
    host = host.strip(' \t"')
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
