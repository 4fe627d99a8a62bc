"""Cursors: where a list goes on. Opaque, URL-safe, and bound to the list and the filters they came from.

44 characters of base64url hold 33 bytes: the activity time in microseconds (8), the session id (16) and a
digest (9) of both with everything that must be the same on the next page. The digest finds damage and
foreign cursors; it is no secret, since a cursor carries no authority.
"""

import base64
import hashlib
import re
from datetime import UTC, datetime, timedelta
from uuid import UUID

from app.errors import Fault, Invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FORM = re.compile("[A-Za-z0-9_-]{44}")  # b64decode takes other alphabets and padding too
_DIGEST = 9


def pack(binding: object, at: datetime, id_: UUID) -> str:
    """The cursor that continues behind (at, id_) of the list that `binding` describes."""
    microseconds = (at - _EPOCH) // timedelta(microseconds=1)
    position = microseconds.to_bytes(8, "big", signed=True) + id_.bytes
    return base64.urlsafe_b64encode(position + _digest(binding, position)).decode()


def unpack(binding: object, cursor: str) -> tuple[datetime, UUID]:
    """The position in `cursor`. Raises Invalid (`invalid_cursor`) if it is damaged or belongs to another list."""
    raw = base64.urlsafe_b64decode(cursor) if _FORM.fullmatch(cursor) else b""
    position, digest = raw[:-_DIGEST], raw[-_DIGEST:]
    damaged = Invalid(Fault("query", "cursor", "invalid_cursor", "is damaged, or belongs to a list with other filters"))
    if digest != _digest(binding, position):
        raise damaged
    try:
        at = _EPOCH + timedelta(microseconds=int.from_bytes(position[:8], "big", signed=True))
    except OverflowError:
        raise damaged from None
    return at, UUID(bytes=position[8:])


def _digest(binding: object, position: bytes) -> bytes:
    return hashlib.sha256(repr(binding).encode() + position).digest()[:_DIGEST]
