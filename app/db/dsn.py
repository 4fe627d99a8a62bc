"""DATABASE_URL in the forms people are given, translated for asyncpg.

asyncpg reads a libpq URL nearly as libpq does, but hands every parameter it does not know to the server, which
then refuses the connection. So each parameter is understood, safely left out, or refused here by name.
Parameters: https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from app.errors import Refused

_SCHEME = re.compile(r"postgres(?:ql)?(?:\+\w+)?", re.ASCII)

_HOST = re.compile(r"(?:\[[^]]+\]|[^][:]*)(?::\d+)?", re.ASCII)

_UNDERSTOOD = frozenset(
    (
        *("host", "port", "dbname", "database", "user", "password", "passfile", "service", "target_session_attrs"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"),
        *("application_name", "options"),
    )
)
_RENAMED = {"ssl": "sslmode"}  # SQLAlchemy's own name for it
_LEFT_OUT = frozenset(  # how the socket is kept, not what the connection means
    (
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        *("client_encoding", "fallback_application_name", "sslcompression", "sslsni", "load_balance_hosts"),
    )
)
_ONLY_IF_OPTIONAL = frozenset(("channel_binding", "gssencmode"))
"""What asyncpg cannot do: fine where it is asked for as `prefer`, a downgrade where it is required."""


@dataclass(frozen=True, slots=True)
class Target:
    """A database to connect to: asyncpg.connect's arguments, and its name for people (no password)."""

    arguments: dict[str, Any]
    description: str


def parse(url: str) -> Target:
    """The target that `url` names. Raises Refused with one line that names what is wrong with it."""
    parts = urlsplit(url)
    if not _SCHEME.fullmatch(parts.scheme):
        raise Refused("DATABASE_URL must begin with postgresql://, postgres:// or postgresql+asyncpg://")
    try:
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise Refused("DATABASE_URL has a query that cannot be read: write ?name=value&name=value") from None
    arguments: dict[str, Any] = {}
    kept: dict[str, str] = {}
    for name, value in query:
        _understand(_RENAMED.get(name, name), value, kept, arguments)
    parameters = urlencode(_hosts(kept), safe="/:,")
    arguments["dsn"] = f"postgresql://{parts.netloc}{parts.path}" + (f"?{parameters}" if parameters else "")
    hosts = parts.netloc.rpartition("@")[2]
    if not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        raise Refused("DATABASE_URL: host and port must be written as host:5432")
    host = hosts or kept.get("host", "localhost")
    database = kept.get("dbname") or unquote(parts.path.lstrip("/"))
    return Target(arguments, f"{host}/{database}" if database else host)


def _understand(name: str, value: str, kept: dict[str, str], arguments: dict[str, Any]) -> None:
    if name == "host" and "host" in kept:  # SQLAlchemy repeats host=, libpq writes a list
        kept["host"] += f",{value}"
    elif name in _UNDERSTOOD:
        kept[name] = value
    elif name == "connect_timeout":
        arguments["timeout"] = max(float(_number(name, value)), 2.0) if _number(name, value) else None
    elif name in ("statement_cache_size", "prepared_statement_cache_size"):
        arguments["statement_cache_size"] = _number(name, value)
    elif name in _ONLY_IF_OPTIONAL and value in ("prefer", "disable", "allow"):
        pass
    elif name in _ONLY_IF_OPTIONAL:
        raise Refused(f"DATABASE_URL: {name}={value} is not supported by the driver: remove it")
    elif name not in _LEFT_OUT:
        raise Refused(f"DATABASE_URL has a parameter that is not known: {name}")


def _number(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise Refused(f"DATABASE_URL: {name} must be a whole number")
    return int(value)


def _hosts(kept: dict[str, str]) -> dict[str, str]:
    """`kept` with host=a:1,b:2 taken apart into libpq's two lists."""
    hosts = kept.get("host", "").split(",")
    if not all(re.fullmatch(r"[^/:]+:\d+", host) for host in hosts):
        return kept
    pairs = [host.rsplit(":", 1) for host in hosts]
    return {**kept, "host": ",".join(host for host, _ in pairs), "port": ",".join(port for _, port in pairs)}
