"""Settings: the environment and `.env`, read once into one frozen object. Nobody else reads the environment.

An empty value means the default, except where empty turns something off: RATE_LIMIT, LOG_FILE, CORS_ORIGINS.
The environment wins over `.env`, and `.env` over files of the same name in /run/secrets.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import limits
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app import env_file, redis_uri
from app.addresses import proxies
from app.errors import Refused

EXAMPLE_KEY = "your-secret-api-key"
_ENV_FILE = Path(".env")
_SECRETS = Path("/run/secrets")

KiB = 1024
MiB = 1024 * KiB


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _path_or_none(value: object) -> object:
    return value or None


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _rate(value: str) -> str:
    if value:
        limits.parse(value)
    return value


Listed = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Bytes = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Settings(BaseSettings):
    """Every setting of the service, under its name in capitals; see docs/configuration.md."""

    model_config = SettingsConfigDict(
        secrets_dir=_SECRETS if _SECRETS.is_dir() else None,
        frozen=True,
        hide_input_in_errors=True,
    )

    api_key: Listed = Field(min_length=1, repr=False)
    database_url: str = Field("", repr=False)
    data_dir: Path = Path("data")
    run_migrations: bool = True

    rate_limit: Annotated[str, BeforeValidator(_rate)] = "10/minute"
    rate_limit_storage_uri: Annotated[str, BeforeValidator(redis_uri.checked)] = Field("", repr=False)
    forwarded_allow_ips: Annotated[str, AfterValidator(proxies)] = ""
    cors_origins: Listed = ()

    log_file: Annotated[Path | None, BeforeValidator(_path_or_none)] = Path("app.log")
    log_format: Literal["text", "json"] = "text"
    log_level: Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)] = "INFO"

    pool_size: int = Field(8, ge=1, le=1_000)
    pool_timeout: Seconds = 5.0
    connect_timeout: Seconds = 5.0
    command_timeout: Seconds = 30.0
    max_waiting: int = Field(256, ge=0)
    drain_delay: float = Field(0, ge=0)
    head_timeout: Seconds = 10.0
    transfer_timeout: Seconds = 30.0
    transfer_rate: Bytes = 8 * KiB

    max_body_bytes: Bytes = 2 * MiB
    max_batch_body_bytes: Bytes = 16 * MiB
    max_held_body_bytes: Bytes = 128 * MiB
    max_content_bytes: Bytes = 256 * KiB
    max_context_bytes: Bytes = 1 * MiB
    max_metadata_bytes: Bytes = 64 * KiB

    evidence_grace: float = Field(3_600, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, values: dict[str, Any]) -> dict[str, Any]:
        off = {"api_key", "rate_limit", "log_file", "cors_origins"}
        return {name: value for name, value in values.items() if value != "" or name in off}

    @model_validator(mode="after")
    def _origins_are_origins(self) -> Self:
        for origin in self.cors_origins:
            parts = urlsplit(origin)
            if origin != "*" and (not parts.scheme or not parts.netloc or parts.path):
                raise ValueError("CORS_ORIGINS takes origins like https://app.example.org, comma-separated")
        return self

    @model_validator(mode="after")
    def _every_body_can_be_held(self) -> Self:
        if self.max_held_body_bytes < max(self.max_body_bytes, self.max_batch_body_bytes):
            raise ValueError("MAX_HELD_BODY_BYTES is less than one body may have")
        return self

    @property
    def protected_mode(self) -> bool:
        """Whether the documented example key is in use, and therefore answered to near clients only."""
        return EXAMPLE_KEY in self.api_key


def load() -> Settings:
    """The settings of this process. Raises Refused with one line that names each setting at fault."""
    try:
        return Settings(**_written())
    except ValidationError as error:
        raise Refused("; ".join(_explain(dict(fault)) for fault in error.errors())) from None


def _written() -> dict[str, Any]:
    """What `.env` sets and the environment does not; compose keeps its POSTGRES_* in the same file."""
    unset = Settings.model_fields.keys() - {name.lower() for name in os.environ}
    values = {name.lower(): value for name, value in env_file.read(_ENV_FILE, os.environ).items()}
    return {name: value for name, value in values.items() if name in unset and value is not None}


def _explain(fault: dict[str, Any]) -> str:
    name = str(fault["loc"][0]).upper() if fault["loc"] else ""
    if name == "API_KEY":
        return "API_KEY is missing or empty: set it in .env or in the environment"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}" if name else message
