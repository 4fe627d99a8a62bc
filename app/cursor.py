"""Cursors: where a list goes on. Opaque, URL-safe, and bound to the list and the filters they came from.

In base64url without padding: the time in microseconds (8 bytes), what orders rows of one time, and a digest (9) of
both with everything that must be the same on the next page. The digest finds damage and foreign cursors; it is no
secret, since a cursor carries no authority.
"""

import base64
import hashlib
import re
from datetime import UTC, datetime, timedelta

from app.errors import Fault, Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
ALPHABET = "^[A-Za-z0-9_-]+$"
_FORM = re.compile("(?:[A-Za-z0-9_-]{4})*[A-Za-z0-9_-]{2,4}")  # b64decode takes other alphabets too
_TIME = 8
_DIGEST = 9


def pack(binding: object, at: datetime, key: bytes) -> str:
    """The cursor that continues behind (at, key) of the list that `binding` describes."""
    # asyncpg takes the first and the last moment for infinities, and gives them back without their zone.
    microseconds = (at.replace(tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
    position = microseconds.to_bytes(_TIME, "big", signed=True) + key
    return _encode(position + _digest(binding, position))


def unpack(binding: object, cursor: str, size: int) -> tuple[datetime, bytes]:
    """The position in `cursor`, its key of `size` bytes.

    Raises Invalid (`invalid_cursor`) if it is damaged or belongs to another list.
    """
    raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)) if _FORM.fullmatch(cursor) else b""
    position, digest = raw[:-_DIGEST], raw[-_DIGEST:]
    damaged = Invalid(Fault("query", "cursor", "invalid_cursor", "is damaged, or belongs to a list with other filters"))
    if len(position) != _TIME + size or digest != _digest(binding, position) or cursor != _encode(raw):
        raise damaged
    try:
        at = _EPOCH + timedelta(microseconds=int.from_bytes(position[:_TIME], "big", signed=True))
    except OverflowError:
        raise damaged from None
    return at, position[_TIME:]


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _digest(binding: object, position: bytes) -> bytes:
    return hashlib.sha256(repr(binding).encode() + position).digest()[:_DIGEST]
