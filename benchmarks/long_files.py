"""32 frames of an hour of 1080p, and of a day: what is read of the file, from the disk and from a server, and how long
that takes."""

import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.clips import clip
from benchmarks.comparison import HERE, Comparison, Setting
from benchmarks.reading import LIMITS, from_disk, here, torchcodec, uniform
from llava_next_video import ReadingLimits, read_video


HOUR, DAY = "60min-1080p", "24h-240p"
MOST_BYTES, MOST_REQUESTS = 40_000_000, 80


def bytes_read(side):
    """Bytes that this process reads from files, as Linux counts them."""

    def prepare(setting: Setting):
        read = side(setting)

        def count() -> int:
            before = bytes_so_far()
            read()
            return bytes_so_far() - before

        return count

    return prepare


def bytes_so_far() -> int:
    [line] = [line for line in Path("/proc/self/io").read_text().splitlines() if line.startswith("rchar")]
    return int(line.split()[1])


class Server(BaseHTTPRequestHandler):
    """Gives out one file, whole or in parts, and counts."""

    path_of_file: str
    num_bytes = num_requests = 0

    def do_GET(self):
        with open(self.path_of_file, "rb") as file:
            size = file.seek(0, 2)
            first, _, last = (self.headers["Range"] or f"bytes=0-{size - 1}").removeprefix("bytes=").partition("-")
            first, last = int(first), min(int(last), size - 1)
            self.send_response(206 if self.headers["Range"] else 200)
            self.send_header("Content-Length", str(last + 1 - first))
            self.send_header("ETag", '"1"')
            if self.headers["Range"]:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            file.seek(first)
            data = file.read(last + 1 - first)
        type(self).num_requests += 1
        type(self).num_bytes += len(data)
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def from_server(name: str, counted: str | None = None):
    """Read from a server on this machine; returns what it counted, or the frames."""

    def prepare(setting: Setting):
        handler = type("OneFile", (Server,), {"path_of_file": clip(name, setting.clips, setting.tiny)})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.02), daemon=True).start()
        limits = ReadingLimits(max_frames=LIMITS.max_frames, allow_private_addresses=True)

        def read():
            handler.num_bytes = handler.num_requests = 0
            frames = read_video(f"http://127.0.0.1:{server.server_port}/", uniform, limits)
            return getattr(handler, counted) if counted else frames

        return read

    return prepare


def most(number: int):
    """What is asked for, as a side."""
    return lambda setting: lambda: number


BYTES, REQUESTS = f"at most {MOST_BYTES // 10**6} MB", f"at most {MOST_REQUESTS}"
COMPARISONS = [
    Comparison(
        "hour_bytes",
        "bytes read for 32 frames, an hour of 1080p",
        {
            HERE: bytes_read(here(HOUR)),
            BYTES: most(MOST_BYTES),
            "torchcodec": bytes_read(torchcodec(HOUR)),
            "torchcodec, approximate": bytes_read(torchcodec(HOUR, "approximate")),
        },
        measure="bytes",
        least={BYTES: 1},
        rounds=1,
    ),
    Comparison(
        "hour_server_bytes",
        "the same from a server on this machine",
        {HERE: from_server(HOUR, "num_bytes"), BYTES: most(MOST_BYTES)},
        measure="bytes",
        least={BYTES: 1},
        rounds=1,
    ),
    Comparison(
        "hour_server_requests",
        "requests for the same",
        {HERE: from_server(HOUR, "num_requests"), REQUESTS: most(MOST_REQUESTS)},
        measure="count",
        least={REQUESTS: 1},
        rounds=1,
    ),
    Comparison(
        "read_hour_1080p",
        "read 32 frames, an hour of 1080p",
        {
            HERE: here(HOUR),
            "torchcodec, approximate": torchcodec(HOUR, "approximate"),
            "here, from a server on this machine": from_server(HOUR),
        },
        least={"torchcodec, approximate": 1},
    ),
    Comparison(
        "read_hour_1080p_cold",
        "the same, nothing of the file in memory",
        {
            HERE: from_disk(HOUR, here(HOUR)),
            "torchcodec": from_disk(HOUR, torchcodec(HOUR)),
            "torchcodec, approximate": from_disk(HOUR, torchcodec(HOUR, "approximate")),
        },
        least={"torchcodec": 2, "torchcodec, approximate": 1},
    ),
    Comparison(
        "read_day",
        "read 32 frames, 24 hours of 240p",
        {HERE: here(DAY), "here, an hour of 1080p": here(HOUR)},
        least={"here, an hour of 1080p": 1 / 1.5},
    ),
]
