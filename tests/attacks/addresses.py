"""Addresses that are not public, in every notation, given at once, by a redirect, and around a proxy."""

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from unittest.mock import patch

from llava_next_video import LlavaNextVideoImageProcessor, LlavaNextVideoVideoProcessor, VideoReadError, read_video
from llava_next_video.reading import downloads
from tests.attacks import Attack


# Of this machine; each is a server's that nobody may reach.
HOSTS = "127.0.0.1 localhost LOCALHOST 127.1 127.0.1 0 0.0.0.0 0x7f.1 0x7f000001 2130706433 017700000001 0177.0.0.1"
HOSTS += " 127.0.0.%31 %6cocalhost %4Cocalhost %31%32%37%2e0%2E0.1 %30 127.255.255.254"
HOSTS += " [::1] %5b::1%5d [0:0::1] [::] [::ffff:127.0.0.1] [::ffff:7f00:1] [0:0:0:0:0:ffff:127.1.2.3]"
HOSTS += " \uff11\uff12\uff17.0.0.1 127\u30020\uff0e0\uff611 \u24db\u24de\u24d2\u24d0\u24db\u24d7\u24de\u24e2\u24e3"
# Not plain: whatever one parser or another makes of them.
NOT_PLAIN = "u@127.0.0.1 u:p@127.0.0.1 u%40127.0.0.1 8.8.8.8@127.0.0.1 8.8.8.8%00.127.0.0.1 127.0.0.1%09 127.0.0.1%0a"
NOT_PLAIN += (
    " 127.0.0.1%0d%0aHost:%20x [::1%25lo] [::1%251] [127.0.0.1] 127.0.0.1%2f 127.0.0.1%5c 127.0.0.1%3f 127.0.0.1%23"
)
NOT_PLAIN += " 8.8.8.8\\@127.0.0.1 127.0.0.1%2531 %25%33%31 127.0.0.\uff05\uff13\uff11 8.8.8.8\uff20127.0.0.1"
NOT_PLAIN += " [::1 ::1 [] [%3a%3a1]"
NOT_PLAIN = [
    *NOT_PLAIN.split(),
    "127.0.0.1\t",
    "127.0.0.1\n",
    " 127.0.0.1",
    "127.0.0.1 x",
    "\r127.0.0.1",
    "127.0.0.1\0",
]
PRIVATE = "10.0.0.1 172.16.0.1 192.168.1.1 169.254.169.254 100.100.100.200 168.63.129.16 192.0.0.192 198.18.0.1"
PRIVATE += " 224.0.0.1 255.255.255.255 240.0.0.1 0.1.2.3 203.0.113.1"
OTHER_V6 = "fec0::1 fe80::1 fd00:ec2::254 ff02::1 ff0e::1 100::1 2001:db8::1 3fff::1 5f00::1 4000::1 ::2 fe00::1"


def in_ipv6(address: str) -> list[str]:
    """Every way to write an IPv4 address in an IPv6 one."""
    ipv4 = int(ip_address(address))
    prefixes = ["::ffff:0:0", "::", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::", "64:ff9b:1:ffff::"]
    isatap = ["fe80::5efe:0:0", "2606:4700::5efe:0:0", "2606:4700::200:5efe:0:0"]
    last = [IPv6Address(int(IPv6Address(prefix)) | ipv4) for prefix in prefixes + isatap]
    inside = [IPv6Address(0x2002 << 112 | ipv4 << 80 | 1), IPv6Address(0x20010000 << 96 | ipv4 << 64 | 0xF7F7F7F7)]
    client = IPv6Address(0x20010000_08080808 << 64 | (ipv4 ^ 0xFFFFFFFF))
    return [str(written) for written in (*last, *inside, client)]


class Secret(BaseHTTPRequestHandler):
    """Answers whoever reaches it."""

    reached: list[str] = []

    def do_GET(self):
        self.reached.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


class Proxy(Secret):
    """A proxy of the operator. It asks nobody: it redirects to what the path says."""

    reached: list[str] = []

    def do_GET(self):
        self.send_response(302)
        self.send_header("Location", self.path.partition("?")[2])
        self.end_headers()


def serve(handler: type[BaseHTTPRequestHandler]) -> int:
    """Start a server on this machine, and return its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
    return server.server_port


@contextmanager
def environment(**variables: str):
    cleared = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    with patch.dict(os.environ, cleared | variables, clear=True):
        yield


class HereOnly(downloads.TimedSocket):
    """Connects to this machine and to no other, should an address ever be let through."""

    def connect(self, address: tuple):
        if not ip_address(address[0]).is_loopback:
            raise AssertionError(f"would have connected to {address[0]}")
        super().connect(address)


def attempt(door: Callable, url: str, **variables: str):
    with environment(**variables), patch.object(downloads, "TimedSocket", HereOnly):
        door(url)


def nobody_came():
    assert Secret.reached == [], Secret.reached


def attacks(folder: Path) -> list[Attack]:
    secret, proxy = serve(Secret), f"http://127.0.0.1:{serve(Proxy)}"
    refused = "not a public address"
    not_plain = "where a host, or a host and a port, is expected|it cannot be fetched"
    either = f"{refused}|{not_plain}"
    videos, images = LlavaNextVideoVideoProcessor(), LlavaNextVideoImageProcessor()
    doors = {"read_video": read_video, "video processor": videos, "image processor": images.fetch_images}

    def attack(name: str, door: Callable, url: str, match: str, **variables: str) -> Attack:
        return Attack(f"{name}: {url!r}", partial(attempt, door, url, **variables), VideoReadError, match)

    found = [
        attack(name, door, f"http://{host}{colon}{secret}/x", refused if host.isascii() else either)
        for name, door in doors.items()
        for host in HOSTS.split()
        for colon in (":", "%3a")
    ]
    found += [attack("not plain", read_video, f"http://{host}:{secret}/x", not_plain) for host in NOT_PLAIN]
    embedded = [f"[{written}]" for address in PRIVATE.split() for written in in_ipv6(address)]
    for host in (*PRIVATE.split(), *embedded, *(f"[{address}]" for address in OTHER_V6.split())):
        found.append(attack("address", read_video, f"http://{host}:{secret}/x", refused))
    for host in (*HOSTS.split(), *NOT_PLAIN, *PRIVATE.split()):
        if host.isprintable():
            target = f"https://{host}:{secret}/x"
            url = f"http://video.example/?{target}"
            # Behind a proxy for http stands nobody but the proxy: what it redirects to over https is looked at.
            found.append(attack("around a proxy", read_video, url, either, http_proxy=proxy))
            plain = f"http://video.example/?http://{host}:{secret}/x"
            excepted = {"http_proxy": proxy.replace("//", "//user:pass@"), "no_proxy": "127.0.0.1,localhost,::1,0"}
            # Hosts that are not excepted go to the proxy, which sends them in circles.
            circles = f"{either}|it redirects in circles"
            found.append(attack("excepted from the proxy", read_video, plain, circles, **excepted))
    found.append(Attack("nobody came to the secret", nobody_came, None))
    return found
