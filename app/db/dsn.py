"""DATABASE_URL in the forms people are given, translated for asyncpg.

The URL is taken apart as libpq does it, and put together again so that every reader agrees: where a URL says a thing
twice, asyncpg lets the authority win and libpq the query. asyncpg hands a parameter that it does not know to the
server, which then refuses the connection: so each is understood, safely left out, or refused here by name.
Parameters: https://www.postgresql.org/docs/18/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

import os
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote, urlencode

from app.db import tls
from app.errors import Refused

_URL = re.compile(
    r"postgres(?:ql)?(?:\+\w+)?://"
    r"(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?"
    r"(?P<hosts>[^@/?]*)(?:/(?P<dbname>[^@?]*))?(?:\?(?P<query>.*))?",
    re.DOTALL,
)
_HOST = re.compile(r"(?:\[(?P<address>[^]]+)\]|(?P<name>[^][:]*))(?::(?P<port>\d*))?", re.ASCII)
_PORTS = re.compile(r"\d*(?:,\d*)*", re.ASCII)

_IN_FRONT = frozenset(("user", "password", "dbname"))
_WHERE = _IN_FRONT | {"host", "port"}
_UNDERSTOOD = frozenset(
    (
        *("passfile", "target_session_attrs", "krbsrvname", "gsslib", "application_name", "options"),
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version"),
    )
)
_ATTRIBUTES = "PGTARGETSESSIONATTRS"
_RENAMED = {"ssl": "sslmode", "database": "dbname"}  # SQLAlchemy's names for them
_LEFT_OUT = frozenset(  # how the socket is kept, not what the connection means
    (
        *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
        *("client_encoding", "fallback_application_name", "sslcompression", "sslsni", "load_balance_hosts"),
    )
)
_ONLY_IF_OPTIONAL = frozenset(("channel_binding", "gssencmode"))
"""What asyncpg cannot do: fine where it is asked for as `prefer`, a downgrade where it is required."""

_ONE_OF = {
    "sslmode": tls.MODES,
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """A database to connect to: asyncpg.connect's arguments, libpq's parameters, and its name for people."""

    arguments: dict[str, Any]
    parameters: dict[str, str]
    description: str
    dsns: tuple[str, ...]
    """One for each host, in the order in which they are asked."""

    @property
    def attributes(self) -> str:
        """What is asked of a server's kind, in the words of target_session_attrs; empty where nothing is."""
        return self.parameters.get("target_session_attrs") or os.environ.get(_ATTRIBUTES, "")


def parse(url: str) -> Target:
    """The target that `url` names. Raises Refused with one line that names what is wrong with it."""
    url = url.strip()
    if not re.match(r"postgres(ql)?(\+\w+)?://", url, re.ASCII):
        raise Refused("DATABASE_URL must begin with postgresql://, postgres:// or postgresql+asyncpg://")
    parts = _URL.fullmatch(url)
    if not parts:
        raise Refused("DATABASE_URL: in a user, password or database @ must be written as %40 and / as %2F")
    kept = {name: _decoded(name, parts[name]) for name in ("user", "password", "dbname") if parts[name]}
    kept |= _hosts(parts["hosts"])
    arguments: dict[str, Any] = {}
    for name, value in _parameters(parts["query"] or ""):
        _understand(name, value, kept, arguments)
    if "," in kept.get("host", "") and not os.environ.get(_ATTRIBUTES):
        kept.setdefault("target_session_attrs", "read-write")  # libpq's `any` stays on a primary that was demoted
    arguments |= tls.checked(kept)
    parameters = kept.copy()
    pairs = _pairs(kept)
    userinfo = ":".join(quote(kept[name], safe="") for name in ("user", "password") if name in kept)
    if "password" in kept and "user" not in kept:
        userinfo = f":{userinfo}"
    front = f"postgresql://{userinfo}{'@' if userinfo else ''}"
    path = "/" + quote(kept["dbname"], safe="") if "dbname" in kept else ""
    query = urlencode({name: kept[name] for name in kept if name not in _IN_FRONT}, quote_via=quote, safe="/")
    behind = f"{path}{'?' if query else ''}{query}"
    hosts = [_written(*pair) for pair in pairs]
    arguments["dsn"] = f"{front}{','.join(hosts)}{behind}"
    alone = hosts and kept.get("target_session_attrs") != "prefer-standby"  # for that asyncpg compares them
    dsns = tuple(f"{front}{host}{behind}" for host in hosts) if alone else (arguments["dsn"],)
    described = unquote(",".join(hosts)) or "localhost"
    return Target(arguments, parameters, f"{described}/{kept['dbname']}" if "dbname" in kept else described, dsns)


def _decoded(name: str, text: str) -> str:
    """`text` without percent-encoding; a plus is a plus, for libpq too."""
    if re.search(r"%(?![0-9A-Fa-f]{2})|%00", text):
        raise Refused(f"DATABASE_URL: a % in the {name} must be written as %25")
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise Refused(f"DATABASE_URL: the {name} is not UTF-8") from None


def _hosts(text: str) -> dict[str, str]:
    """The two lists that libpq makes of a URL's `a:1,[::1]:2`."""
    hosts = [_HOST.fullmatch(host) for host in text.split(",")]
    if not all(hosts):
        raise Refused("DATABASE_URL: host and port must be written as host:5432")
    found = {
        "host": ",".join(_decoded("host", host["address"] or host["name"] or "") for host in hosts if host),
        "port": ",".join(host["port"] or "" for host in hosts if host),
    }
    return {name: value for name, value in found.items() if value.strip(",")}


def _parameters(query: str) -> list[tuple[str, str]]:
    """The query's names and values; of a repeated name the last one counts, but SQLAlchemy repeats host=."""
    found: dict[str, str] = {}
    for part in query.split("&") if query else ():
        name, separator, value = part.partition("=")
        if not separator:
            raise Refused("DATABASE_URL has a query that cannot be read: write ?name=value&name=value")
        name, value = _decoded("query", name), _decoded(name, value)
        if (name, value) == ("ssl", "true"):  # JDBC's and Heroku's, which libpq reads so too
            value = "require"
        name = _RENAMED.get(name, name)
        if name == "host" and name in found:
            value = f"{found[name]},{value}"
        elif name == "sslmode" and found.get(name, value) != value:
            raise Refused("DATABASE_URL gives sslmode twice, and differently")
        found[name] = value
    return list(found.items())


def _understand(name: str, value: str, kept: dict[str, str], arguments: dict[str, Any]) -> None:
    if name == "host" and all(re.fullmatch(r"[^/:]+:\d+", host) for host in value.split(",")):
        kept |= _hosts(value)  # SQLAlchemy's form
    elif name in _WHERE | _UNDERSTOOD:
        _check(name, value)
        kept[name] = value
        if not value:
            del kept[name]
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


def _check(name: str, value: str) -> None:
    if name == "port" and not _PORTS.fullmatch(value):
        raise Refused("DATABASE_URL: port must be a whole number")
    if name in _ONE_OF and value not in _ONE_OF[name]:
        raise Refused(f"DATABASE_URL: {name} must be one of {', '.join(_ONE_OF[name])}")


def _number(name: str, value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise Refused(f"DATABASE_URL: {name} must be a whole number")
    return int(value)


def _pairs(kept: dict[str, str]) -> list[tuple[str, str]]:
    """Those two lists, taken out of `kept`, as hosts with their ports; empty where only a port is known."""
    if "host" not in kept:
        return []
    hosts = kept.pop("host").split(",")
    ports = kept.pop("port", "").split(",")
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts) or not all(hosts):
        raise Refused("DATABASE_URL: there must be one port, or as many as hosts")
    return list(zip(hosts, ports, strict=True))


def _written(name: str, number: str) -> str:
    written = f"[{quote(name, safe=':')}]" if ":" in name and "/" not in name else quote(name, safe="")
    return written + (f":{number}" if number else "")
