"""TLS of the database connection: what libpq does with the ssl parameters and asyncpg does not, or not legibly."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import Refused

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_UNVERIFIED = ("allow", "prefer")
_SYSTEM = "system"  # libpq's word for the certificates that this machine trusts


def checked(given: dict[str, str]) -> dict[str, Any]:
    """asyncpg.connect's further arguments for libpq's parameters `given`, whose sslmode may be filled in.

    Raises Refused with one line that names the parameter.
    """
    system = given.get("sslrootcert") == _SYSTEM
    if system:
        given.setdefault("sslmode", "verify-full")
    mode = given.get("sslmode", os.environ.get("PGSSLMODE") or "prefer")
    if mode not in MODES:
        raise Refused(f"PGSSLMODE must be one of {', '.join(MODES)}")
    if mode == "disable":
        return {}
    if "sslrootcert" in given and mode in _UNVERIFIED:  # libpq falls back to plain text, asyncpg does not verify
        raise Refused(f"DATABASE_URL: sslrootcert protects nothing with sslmode={mode}: write sslmode=verify-full")
    if system and mode != "verify-full":  # as libpq: anybody can have a certificate of a public authority
        raise Refused(f"DATABASE_URL: sslrootcert=system with sslmode={mode} is weak: write sslmode=verify-full")
    context = ssl.create_default_context() if system else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _load(context, given, system=system)
    if not system:
        return {}  # asyncpg makes its own, with what lies in ~/.postgresql
    context.set_alpn_protocols(["postgresql"])
    return {"ssl": context}


def _load(context: ssl.SSLContext, given: dict[str, str], *, system: bool) -> None:
    """Load the files that `given` names: asyncpg's complaint of one that is wrong would not say which."""
    for name in ("sslrootcert", "sslcrl"):
        if name in given and not (system and name == "sslrootcert"):
            _try(name, given[name], lambda path: context.load_verify_locations(cafile=path))
    if system and "sslcrl" in given:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if ("sslcert" in given) != ("sslkey" in given):
        raise Refused("DATABASE_URL: sslcert and sslkey belong together")
    if "sslcert" in given:
        certificate, key, password = given["sslcert"], given["sslkey"], given.get("sslpassword", "")
        for name in ("sslcert", "sslkey"):
            _try(name, given[name], lambda path: Path(path).open().close())
        _try("sslcert with its sslkey", certificate, lambda path: context.load_cert_chain(path, key, lambda: password))


def _try(name: str, path: str, load: Callable[[str], None]) -> None:
    try:
        load(path)
    except FileNotFoundError:
        raise Refused(f"DATABASE_URL: {name} names no file: {path}") from None
    except OSError as error:
        raise Refused(f"DATABASE_URL: {name} cannot be read: {path} ({error.strerror or error})") from None
