"""Web pages of another origin: what a real browser lets them read, of errors too."""

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.tests.harness import KEY, Chat, Service, settings
from app.tests.process import DEADLINE

PAGE = """<pre id="seen"></pre><script>
const seen = [];
async function call(method, path, headers, body) {
    const response = await fetch("URL" + path, {method, body, headers: {"X-API-Key": "KEY", ...headers}});
    const read = name => response.headers.get(name);
    const answer = await response.json();
    seen.push([response.status, answer.code || "", read("ETag"), read("RateLimit-Remaining"), read("Location"),
               read("Retry-After") !== null, read("X-Request-ID") !== null]);
    return answer;
}
(async () => {
    const json = {"Content-Type": "application/json"};
    const path = "/chat/sessions/" + (await call("POST", "/chat/sessions", json, "{}")).id;
    await call("GET", path, {});
    await call("GET", path, {"X-API-Key": "wrong"});
    await call("PUT", path, {...json, "If-Match": '"99"'}, '{"name": "n"}');
    await call("GET", path, {});
})().catch(error => seen.push(String(error)))
    .finally(() => document.getElementById("seen").textContent = JSON.stringify(seen));
</script>"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def pages(directory: Path) -> Iterator[str]:
    """The files of `directory` on an origin of their own."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def browsed(url: str, place: Path) -> str:
    """The page's text once its scripts are done."""
    browser = await asyncio.create_subprocess_exec(
        *(shutil.which("chromium") or "", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *(f"--user-data-dir={place}", "--virtual-time-budget=20000", "--dump-dom", url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(DEADLINE):
        output, _ = await browser.communicate()
    return output.decode()


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
@pytest.mark.parametrize("listed", ["the page", "another"])
async def test_a_page_reads_status_and_headers_of_errors_too(tmp_path: Path, database_url: str, listed: str) -> None:
    with pages(tmp_path) as origin:
        origins = {"the page": f"https://app.example.org, {origin}", "another": "https://app.example.org"}
        chosen = settings(database_url=database_url, rate_limit="4/hour", cors_origins=origins[listed])
        async with Service.running(chosen) as service:
            (tmp_path / "page.html").write_text(PAGE.replace("URL", service.url).replace("KEY", KEY))
            text = await browsed(f"{origin}/page.html", tmp_path / "profile")
    found = re.search(r'id="seen">(.*)</pre>', text)
    assert found, text
    seen = json.loads(found[1])
    if listed == "another":
        assert seen == ["TypeError: Failed to fetch"]
        return
    location = seen[0].pop(4)
    assert location.startswith("/chat/sessions/")
    assert seen == [
        [201, "", '"1"', "3", False, True],
        [200, "", '"1"', "2", None, False, True],
        [401, "unauthorized", None, "1", None, False, True],
        [412, "revision_mismatch", None, "0", None, False, True],
        [429, "rate_limited", None, "0", None, True, True],
    ]


@pytest.mark.parametrize("listed", ["*", "https://app.example.org", "https://a.example.org,https://app.example.org"])
async def test_every_refusal_is_readable_to_the_pages_that_are_listed(database_url: str, listed: str) -> None:
    chosen = settings(database_url=database_url, rate_limit="2/hour", cors_origins=listed, pool_size=1, max_waiting=0)
    async with Service.running(chosen) as service, Chat(service.url, KEY) as client:
        client.headers["Origin"] = "https://app.example.org"
        reader, writer = await asyncio.open_connection("127.0.0.1", int(service.url.rpartition(":")[2]))
        writer.write(
            f"POST /chat/sessions HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\nContent-Type: application/json\r\n"
            "Expect: 100-continue\r\nContent-Length: 2\r\n\r\n".encode()
        )
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"  # it is in flight, so there is no room
        responses = [await client.get("/health"), await client.get("/health")]
        writer.write(b"{}")
        writer.close()
    assert [response.status_code for response in responses] == [503, 429]
    for response in responses:
        allowed = "*" if listed == "*" else "https://app.example.org"
        assert response.headers["access-control-allow-origin"] == allowed
        assert "Retry-After" in response.headers["access-control-expose-headers"]
        assert listed == "*" or "origin" in response.headers["vary"].lower()
