"""Sending requests: as fast as they are answered with wrk, or at a fixed rate with a client of our own.

wrk is a few threads in C that cost a tenth of any server measured here. What it reports of latency is of a closed
loop, where a slow answer delays the next request; so latency is measured at a fixed rate, from the moment at which a
request was due.
"""

import asyncio
import json
import shutil
import statistics
import subprocess
import tempfile
import time
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


async def at_rate(url: str, requests: Sequence[Request], rate: float, seconds: float) -> Speed:
    """So many requests a second whatever becomes of them; a connection for each that is not answered yet."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 80
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    latencies: list[float] = []

    async def one(due: float, text: bytes) -> None:
        reader, writer = idle.pop() if idle else await asyncio.open_connection(host, port)
        writer.write(text)
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 20"):
            raise SystemExit(head.decode())
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.partition(b":")[2]))
        latencies.append(time.perf_counter() - due)
        idle.append((reader, writer))

    began, sent = time.perf_counter(), 0
    async with asyncio.TaskGroup() as group:
        while (due := sent / rate) < seconds:
            await asyncio.sleep(max(0, began + due - time.perf_counter()))
            group.create_task(one(began + due, raw(url, requests[sent % len(requests)])))
            sent += 1
    for _, writer in idle:
        writer.close()
    cuts = statistics.quantiles(latencies, n=100)
    return Speed(sent, time.perf_counter() - began, cuts[49] * 1e3, cuts[98] * 1e3)
