"""Which texts are addresses, and which addresses are public.

The table of addresses that are not public comes from the registries of special-purpose addresses,
https://www.iana.org/assignments/iana-ipv4-special-registry and iana-ipv6-special-registry. It stands here because
`is_global` differs between versions of Python, and because clouds give some more addresses to services that only their
own machines reach.
"""

import re
import socket
from ipaddress import IPv4Address, ip_address, ip_network


# Connecting to one of these is connecting to the IPv4 address in its last 32 bits.
IPV4_IN_IPV6 = [ip_network(network) for network in ("::ffff:0:0/96", "64:ff9b::/96")]  # mapped; NAT64, RFC 6052
# The other ways to put IPv4 into IPv6 (6to4, Teredo, "compatible", ISATAP, local NAT64) lead wherever a tunnel or
# translator of this network takes them, and nobody serves videos there: they all count as not public.
ISATAP = 0x5EFE  # bits 64 to 95 of an address, except the one that says whether the IPv4 address is unique
GLOBAL_UNICAST = ip_network("2000::/3")
NOT_PUBLIC = [
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this host
        "10.0.0.0/8",
        "34.118.224.0/20",  # services inside a cluster of Google Kubernetes Engine
        "100.64.0.0/10",  # behind a provider's translator; the metadata of Alibaba Cloud
        "127.0.0.0/8",
        "168.63.129.16/32",  # the platform of Azure
        "169.254.0.0/16",  # link-local; the metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocols; the metadata of Oracle Cloud
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # protocols; Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
]


def scheme_of(text: str) -> str | None:
    """The scheme of a URL in lower case, or None for a path.

    >>> scheme_of("HTTPS://example.org/clip.mp4"), scheme_of("data:video/mp4;base64,AAAA"), scheme_of("file:clip.mp4")
    ('https', 'data', None)
    """
    found = re.match(r"(data):|([a-z][a-z0-9+.-]*)://", text, re.IGNORECASE)
    return found and (found[1] or found[2]).lower()


def is_web_address(text: str) -> bool:
    """Whether a text is a URL that begins with http: or https:."""
    return scheme_of(text) in ("http", "https")


def is_public(address: str) -> bool:
    """Whether an address, IPv4 or IPv6, can be reached from the whole internet.

    >>> is_public("8.8.8.8"), is_public("::ffff:127.0.0.1")
    (True, False)
    """
    ip = ip_address(address.partition("%")[0])
    if any(ip in network for network in IPV4_IN_IPV6):
        ip = IPv4Address(int(ip) & 0xFFFFFFFF)
    if ip.version == 6 and (ip not in GLOBAL_UNICAST or int(ip) >> 32 & 0xFDFFFFFF == ISATAP):
        return False
    return not any(ip in network for network in NOT_PUBLIC)


def is_own(family: int, address: tuple) -> bool:
    """Whether an address is this machine's own: the system would use the same address as the sender's. Nothing is sent
    to find out."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return ip_address(probe.getsockname()[0]) == ip_address(address[0])
    except OSError:  # no route leads there
        return False
