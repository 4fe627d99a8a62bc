"""Who is calling: key → tenant. The only authentication code.

Authentication cannot be a FastAPI dependency: FastAPI parses the body first, so that malformed JSON without a
key would be a 422. Here no byte of the body has been read.
"""

from hmac import compare_digest

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.addresses import is_near
from app.errors import ExampleKey, Unauthorized
from app.settings import EXAMPLE_KEY

_OPEN = frozenset(("/livez", "/readyz", "/metrics", "/openapi.json", "/favicon.ico", "/docs"))
_FORWARDED = ("x-forwarded-for", "x-real-ip")


def is_open(scope: Scope) -> bool:
    """Whether this path is answered to anybody, and not counted by the rate limit."""
    path = scope["state"]["path"]
    return path in _OPEN or path.startswith("/docs/")


class Keyring:
    """Which keys are valid, and whose they are. Compared as bytes, all of them, in constant time."""

    def __init__(self, keys: dict[str, int]) -> None:
        self._keys = [(key.encode(), tenant_id) for key, tenant_id in keys.items()]

    def add(self, key: str, tenant_id: int) -> None:
        self._keys.append((key.encode(), tenant_id))

    def tenant_of(self, sent: bytes) -> int | None:
        found = None
        for key, tenant_id in self._keys:
            if compare_digest(key, sent):
                found = tenant_id
        return found


class Caller:
    """Lets a request pass with its tenant in `state`, or raises Unauthorized or ExampleKey."""

    def __init__(self, app: ASGIApp, keyring: Keyring) -> None:
        self._app = app
        self._keyring = keyring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not is_open(scope):
            sent = _key(scope)
            tenant_id = self._keyring.tenant_of(sent)
            if tenant_id is None:
                raise Unauthorized
            if sent == EXAMPLE_KEY.encode() and not _is_near(Request(scope)):
                raise ExampleKey
            scope["state"]["tenant_id"] = tenant_id
        await self._app(scope, receive, send)


def _key(scope: Scope) -> bytes:
    bearer = b""
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return bytes(value)
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            bearer = value[7:].strip()
    return bearer


def _is_near(request: Request) -> bool:
    """A proxy on this host is near and its clients are not, so whom it names counts as well, believed or not."""
    named = [line for header in _FORWARDED for line in request.headers.getlist(header)]
    addresses = [part.strip() for line in named for part in line.split(",")]
    return all(is_near(address) for address in (request.client.host if request.client else "", *addresses))
