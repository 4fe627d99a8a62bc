"""Client addresses: which of them share a rate limit, and which are near enough for the example key."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address


def bucket(host: str) -> str:
    """The address that a rate limit counts: IPv6 by /64, since one host may use 2^64 of them."""
    address = _parse(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((address, 64), strict=False))
    return str(address) if address else host


def is_near(host: str) -> bool:
    """Whether `host` is on loopback, in a private network, or a unix socket (no address at all)."""
    address = _parse(host)
    if address is None:
        return not host
    return address.is_loopback or address.is_private or address.is_link_local


def _parse(host: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address
