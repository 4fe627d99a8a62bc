"""Successful answers: JSON written by orjson from the nouns as they stand, with the headers of the contract."""

from typing import Any

import orjson
from starlette.responses import Response

from app.models import Noun, Stored

# What OpenAPI says of the headers.
_TEXT = {"required": True, "schema": {"type": "string"}}
ETAG: dict[str, Any] = {"ETag": {"description": "The session's revision, for If-Match.", **_TEXT}}
LOCATION: dict[str, Any] = {"Location": {"description": "The path of what was stored.", **_TEXT}}
REPLAYED: dict[str, Any] = {"Idempotent-Replayed": {"description": "`true`: nothing was stored anew.", **_TEXT}}


def answer(noun: Any, *, status: int = 200, revision: int | None = None) -> Response:
    """`noun` as JSON; with the session's revision as ETag where there is one."""
    headers = {} if revision is None else etag(revision)
    return Response(dumps(noun), status_code=status, media_type="application/json", headers=headers)


def etag(revision: int) -> dict[str, str]:
    """The session's revision as a header."""
    return {"ETag": f'"{revision}"'}


def stored(result: Stored[Noun], location: str | None = None) -> Response:
    """201 for what was stored now, 200 for a replay of what was stored before."""
    response = answer(result.resource, status=200 if result.replayed else 201, revision=result.revision)
    if location is not None:
        response.headers["Location"] = location
    if result.replayed:
        response.headers["Idempotent-Replayed"] = "true"
    return response


def dumps(noun: Any) -> bytes:
    """A noun as JSON. asyncpg reads the very last microsecond of all without a time zone."""
    return orjson.dumps(noun, option=orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC)
