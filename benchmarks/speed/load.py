"""Sending requests, by wrk or from Python, and how fast they were answered.

Flat out is a closed loop, where a slow answer delays the next request: its latency flatters. At a fixed rate it does
not. wrk's threads in C cost a tenth of any server measured here; where it is not installed client.py does the same.
"""

import json
import math
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from workloads import Request

KEY = "benchmark"
MOST_CONNECTIONS = 128  # at a fixed rate

_CLIENT = Path(__file__).with_name("client.py")
_LUA = """
local requests, at = {}, 0
function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local length = file:read("*l")
    if not length then break end
    requests[#requests + 1] = file:read(tonumber(length))
  end
end
function request() at = at % #requests + 1 return requests[at] end
function done(summary, latency)
  io.write(string.format('{"requests":%d,"seconds":%f,"errors":%d,"p50":%f,"p99":%f}\\n', summary.requests,
    summary.duration / 1e6, summary.errors.status + summary.errors.connect + summary.errors.read +
    summary.errors.write + summary.errors.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""
_dice = random.Random(11)  # noqa: S311 - repeatable, no secret


class Speed(NamedTuple):
    """Requests answered, in how many seconds, and the latency of the median and of the 99th of 100, milliseconds.

    `client` is the share of a core that sending them took; 0: not measured.
    """

    requests: int
    seconds: float
    p50: float
    p99: float
    client: float = 0


def generator() -> str:
    """What sends requests flat out here."""
    return "wrk" if shutil.which("wrk") else "python"


def flat_out(url: str, requests: Sequence[Request], connections: int, seconds: float) -> Speed:
    """So many connections, each with its next request as soon as the last one is answered."""
    send = by_wrk if generator() == "wrk" else from_python
    return send(url, requests, connections, seconds)


def at_rate(url: str, requests: Sequence[Request], rate: float, seconds: float) -> Speed:
    """So many requests a second, evenly spaced; latency counts from when each was due."""
    return from_python(url, requests, MOST_CONNECTIONS, seconds, rate)


def by_wrk(url: str, requests: Sequence[Request], connections: int, seconds: float) -> Speed:
    with _written(url, requests) as sent:
        script = sent.with_name("load.lua")
        script.write_text(_LUA)
        options = ["-t1", f"-c{connections}", f"-d{math.ceil(seconds) + 1}s", "--timeout=30s", "-s", str(script)]
        found = _told(["wrk", *options, url, "--", str(sent)], interrupt_after=seconds)
    return Speed(found["requests"], found["seconds"], found["p50"], found["p99"])


def from_python(
    url: str, requests: Sequence[Request], connections: int, seconds: float, rate: float | None = None
) -> Speed:
    with _written(url, requests) as sent:
        options = [f"--connections={connections}", f"--seconds={seconds}", f"--rate={rate or 0}"]
        found = _told([sys.executable, str(_CLIENT), str(urlsplit(url).port), str(sent), *options])
    return Speed(found["requests"], found["seconds"], found["p50"], found["p99"], found["cpu"])


def raw(url: str, request: Request) -> bytes:
    """The request as it goes over the wire."""
    head = f"{request.method} {request.path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nX-API-Key: {KEY}\r\n"
    if request.body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(request.body)}\r\n"
    return head.encode() + b"\r\n" + request.body


@contextmanager
def _written(url: str, requests: Sequence[Request]) -> Iterator[Path]:
    """A file of them, each behind its length; from another one on each time, so that short turns get to all."""
    start = _dice.randrange(len(requests))
    texts = [raw(url, request) for request in (*requests[start:], *requests[:start])]
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "requests"
        path.write_bytes(b"".join(b"%d\n" % len(text) + text for text in texts))
        yield path


def _told(command: list[str], interrupt_after: float | None = None) -> dict[str, Any]:
    """What a generator printed; the end of the program where there were errors. wrk itself knows whole seconds only."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            output, complaint = process.communicate(timeout=interrupt_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            output, complaint = process.communicate()
    found: dict[str, Any] = json.loads(output.splitlines()[-1]) if process.returncode == 0 else {}
    if not found or found["errors"] or not found["requests"]:
        raise SystemExit(f"{Path(command[0]).name}: {output}{complaint}")
    return found
