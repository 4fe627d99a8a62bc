"""What RATE_LIMIT_STORAGE_URI may be: the address of one Redis, as limits and redis-py read it."""

import re
from urllib.parse import urlsplit

from limits.storage import RedisStorage

SCHEMES = ("redis", "rediss", "redis+unix")


def checked(uri: str) -> str:
    """`uri`, or a ValueError that does not repeat it: it may hold a password."""
    if not uri or _is_readable(uri):
        return uri
    raise ValueError(
        "takes redis://[:password@]host:port/db, rediss:// likewise, or redis+unix:///path, "
        "with / ? # % in a password percent-encoded"
    )


def without_password(uri: str) -> str:
    """`uri` as a log may show it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _is_readable(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        if parts.scheme not in SCHEMES or parts.fragment or parts.port == 0:
            return False
        # An unknown option would fail at the first connection only; this makes one without connecting it.
        RedisStorage(uri).storage.connection_pool.make_connection()
    except (ValueError, TypeError, AttributeError):
        return False
    if parts.scheme == "redis+unix":
        return len(parts.path) > 1
    return bool(parts.hostname) and re.fullmatch(r"(/\d*)?", parts.path) is not None  # redis-py reads /x as 0
