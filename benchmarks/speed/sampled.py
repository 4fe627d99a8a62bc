"""The service in a process that looks at itself: each millisecond of CPU time it notes which frames it is in.

    python benchmarks/speed/sampled.py FILE serve --port=8000

From SIGUSR1 on, until SIGUSR2 has it write to FILE the number of samples by layer, as JSON. What C code takes counts
for the Python frame that runs next, so a layer that calls much of it seems a little cheaper than it is.
"""

import json
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

from app import cli

LAYERS = {
    "access line, metrics, request id": ("/app/telemetry/", "/app/addresses.py"),
    "evidence": (
        *("/app/evidence.py", "/app/splitting.py", "/app/store/evidence.py", "/app/store/placing.py"),
        *("/app/store/showing.py", "/app/store/marks.py", "/app/store/memory.py", "/app/store/counts.py"),
    ),
    "parameters and body": (
        *("/app/api/binding.py", "/app/api/body.py", "/app/api/fields.py", "/app/api/drafts.py"),
        *("/app/api/call.py", "/app/strict_json.py"),
    ),
    "statement and rows": ("/app/store/", "/app/models.py", "/app/times.py"),
    "connection from the pool": ("/app/db/", "/sqlalchemy/"),
    "driver": ("/asyncpg/",),
    "answer": ("/app/api/answers.py", "/starlette/responses.py"),
    "checks before the route": ("/app/api/", "/fastapi/", "/starlette/", "/app/main.py"),
    "HTTP": ("/uvicorn/protocols/", "/app/connection.py", "/app/corked.py", "/app/pace.py"),
}
OTHER = "event loop, sockets, what PostgreSQL answers"
INTERVAL = 0.001

_found: Counter[str] = Counter()


def layer_of(frame: FrameType | None) -> str:
    """The layer of the innermost frame that is of any."""
    while frame is not None:
        path = frame.f_code.co_filename
        for layer, parts in LAYERS.items():
            if any(part in path for part in parts):
                return layer
        frame = frame.f_back
    return OTHER


def write(file: Path) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    whole = file.with_suffix(".new")
    whole.write_text(json.dumps(_found))
    whole.rename(file)


def main() -> None:
    file = Path(sys.argv.pop(1))
    signal.signal(signal.SIGPROF, lambda _, frame: _found.update((layer_of(frame),)))
    signal.signal(signal.SIGUSR1, lambda *_: signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL))
    signal.signal(signal.SIGUSR2, lambda *_: write(file))
    cli.main()


if __name__ == "__main__":
    main()
