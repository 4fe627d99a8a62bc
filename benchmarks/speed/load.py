"""Sending requests with wrk, as fast as they are answered: threads in C that cost a tenth of any server measured here.

What it reports of latency is of a closed loop, where a slow answer delays the next request.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from workloads import Request

KEY = "benchmark"

_LUA = """
local requests, at = {}, 0
function setup(thread) thread:set("seed", math.random(1, 1000000)) end
function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local length = file:read("*l")
    if not length then break end
    requests[#requests + 1] = file:read(tonumber(length))
  end
  at = seed % #requests
end
function request() at = at % #requests + 1 return requests[at] end
function done(summary, latency)
  io.write(string.format('{"requests":%d,"seconds":%f,"errors":%d,"p50":%f,"p99":%f}\\n', summary.requests,
    summary.duration / 1e6, summary.errors.status + summary.errors.connect + summary.errors.read +
    summary.errors.write + summary.errors.timeout, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


class Speed(NamedTuple):
    """Requests answered, in how many seconds, and the latency of the median and of the 99th of 100, milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float


def raw(url: str, request: Request) -> bytes:
    """The request as it goes over the wire."""
    head = f"{request.method} {request.path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nX-API-Key: {KEY}\r\n"
    if request.body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(request.body)}\r\n"
    return head.encode() + b"\r\n" + request.body


def flat_out(url: str, requests: Sequence[Request], connections: int, seconds: float) -> Speed:
    """So many connections, each with its next request as soon as the last one is answered."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("wrk is not installed: it is in Debian's package of that name")
    with tempfile.TemporaryDirectory() as directory:
        script, sent = Path(directory) / "load.lua", Path(directory) / "requests"
        script.write_text(_LUA)
        texts = [raw(url, request) for request in requests]
        sent.write_bytes(b"".join(b"%d\n" % len(text) + text for text in texts))
        threads = ["-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout=30s"]
        done = subprocess.run(
            [wrk, *threads, "-s", script, url, "--", sent], capture_output=True, text=True, check=False
        )
    found = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    if not found or found["errors"]:
        raise SystemExit(f"wrk: {done.stdout}{done.stderr}")
    return Speed(found["requests"], found["seconds"], found["p50"], found["p99"])
