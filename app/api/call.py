"""One call as a route sees it: who calls, on whose behalf, under which conditions, and with which database."""

import re
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header
from starlette.requests import Request

from app import ids
from app.db.pool import Database
from app.errors import InvalidHeader
from app.store.evidence import Evidence

MAX_USER = 255
_MAX_KEY = 255
_VISIBLE_ASCII = re.compile(rb"[\x21-\x7e]{1,%d}" % _MAX_KEY)
_ENTITY_TAG = re.compile(rb'(?:W/)?"([\x21\x23-\x7e\x80-\xff]*)"')


class CallContext:
    """The request, read no further than its headers. Raises InvalidHeader where one that is asked for is broken."""

    __slots__ = ("_request", "db", "evidence", "tenant_id", "user")

    def __init__(self, request: Request) -> None:
        self._request = request
        self.db: Database = request.app.state.db
        self.evidence: Evidence = request.app.state.evidence
        self.tenant_id: int = request.scope["state"]["tenant_id"]
        self.user = _user(request)

    @property
    def revisions(self) -> list[int] | None:
        """The revisions of which If-Match demands one; None demands nothing."""
        return _revisions(self._request)

    def derived_id(self, *scope: str) -> UUID | None:
        """The id that this call's Idempotency-Key stands for within `scope`; None without the header."""
        key = _idempotency_key(self._request)
        return None if key is None else ids.derived(*scope, key)


def _documented(
    x_user_id: Annotated[
        str | None,
        Header(
            alias="X-User-Id",
            description="Narrows the call to this user's sessions: any other is a 404.",
            min_length=1,
            max_length=MAX_USER,
        ),
    ] = None,
) -> None:
    """Never called: binding.py makes the CallContext, and this puts the header into OpenAPI."""


Call = Annotated[CallContext, Depends(_documented)]


def _no_user_documented() -> None: ...


CallOfNoUser = Annotated[CallContext, Depends(_no_user_documented)]
"""Of a route that refuses X-User-Id, so that OpenAPI does not offer it."""


def _documented_conditions(
    if_match: Annotated[
        str | None,
        Header(
            alias="If-Match",
            description='The revision the session must have, as its ETag: `"7"`. Else 412.',
            pattern=r'^(\*|(W/)?"[!#-~]*")$',
        ),
    ] = None,
) -> None: ...


def _documented_key(
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            description="Makes a repeat of this call a replay; 1-255 visible ASCII characters.",
            pattern=f"^[!-~]{{1,{_MAX_KEY}}}$",
        ),
    ] = None,
) -> None: ...


CONDITIONAL = Depends(_documented_conditions)
IDEMPOTENT = Depends(_documented_key)


def _single(request: Request, name: str) -> bytes | None:
    wanted = name.lower().encode()
    values = [value for header, value in request.scope["headers"] if header == wanted]
    if len(values) > 1:
        raise InvalidHeader(name, "may be sent once")
    return values[0] if values else None


def _user(request: Request) -> str | None:
    raw = _single(request, "X-User-Id")
    if raw is None:
        return None
    try:
        user = raw.decode()
    except UnicodeDecodeError:
        raise InvalidHeader("X-User-Id", "must be UTF-8") from None
    if not 1 <= len(user) <= MAX_USER or "\0" in user:
        raise InvalidHeader("X-User-Id", f"must hold 1 to {MAX_USER} characters")
    return user


def _idempotency_key(request: Request) -> str | None:
    raw = _single(request, "Idempotency-Key")
    if raw is None:
        return None
    if not _VISIBLE_ASCII.fullmatch(raw):
        raise InvalidHeader("Idempotency-Key", f"must be 1 to {_MAX_KEY} visible ASCII characters")
    return raw.decode()


def _revisions(request: Request) -> list[int] | None:
    raw = _single(request, "If-Match")
    if raw is None or raw == b"*":
        return None
    match = _ENTITY_TAG.fullmatch(raw)
    if match is None:
        raise InvalidHeader("If-Match", 'takes one entity tag, as "7", or *')
    tag = match.group(1)
    return [int(tag)] if re.fullmatch(rb"[1-9][0-9]{0,8}", tag) else []  # no other tag is ever ours
