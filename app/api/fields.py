"""The fields of bodies and queries: what each may hold, once for all routes."""

import unicodedata
from datetime import datetime
from typing import Annotated, Any, ClassVar, Literal, NoReturn, cast
from uuid import UUID

from fastapi import Path
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from app import cursor, ids, strict_json, times
from app.evidence import MAX_DOCUMENT_ID
from app.settings import Settings
from app.strict_json import EMPTY_OBJECT, Json


class Body(BaseModel):
    """A request body: JSON types are taken as they are, and a field that is not known is a typo."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    limit: ClassVar[str] = "max_body_bytes"
    """The setting that limits its size."""

    levels: ClassVar[int] = 1
    """How many JSON containers stand around the values of its fields."""

    @classmethod
    def forget_unknown(cls, sent: Any, left: int) -> int:
        """Leave `left` unknown fields, as many as one answer names: pydantic takes 13 s to tell of 170,000.

        Returns how many may be left elsewhere.
        """
        if not isinstance(sent, dict):
            return left
        fields = cls.model_fields  # asked once: it is computed
        unknown = [name for name in sent if name not in fields]
        for name in unknown[left:]:
            del sent[name]
        return max(0, left - len(unknown))


class Query(BaseModel):
    """A query: every value arrives as text, and a parameter that is not known is a typo."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def refuse(code: str, message: str) -> NoReturn:
    """Refuse the field that is being validated; `code` is for programs, `message` follows the field's name."""
    raise PydanticCustomError(code, message)


def _id(value: object) -> UUID:
    parsed = ids.parse(value) if isinstance(value, str) else None
    return parsed or refuse("uuid", "must be a UUID of 36 characters")


def _moment(value: object) -> datetime:
    if not isinstance(value, str):
        refuse("type", "must be a string")
    try:
        return times.parse(value)
    except ValueError:
        refuse("time", "must be a time with an offset, as 2026-03-01T12:00:00Z (RFC 3339)")


def _no_control(value: str) -> str:
    if any(unicodedata.category(character) == "Cc" for character in value):
        refuse("control_character", "may not hold control characters")
    return value


def _limits(info: ValidationInfo) -> Settings:
    return cast("Settings", info.context)


def _content(value: str, info: ValidationInfo) -> str:
    _check_size(value, _limits(info).max_content_bytes)
    return value


def _any_json(value: Any, info: ValidationInfo) -> Json | None:
    return None if value is None else _json(value, _limits(info).max_context_bytes)


def _object(value: Any, info: ValidationInfo) -> Json:
    if value is None:
        return EMPTY_OBJECT
    if not isinstance(value, dict):
        refuse("type", "must be an object")
    return _json(value, _limits(info).max_metadata_bytes)


def _value(json: Json | None) -> Any:
    return json and json.value


def no_metadata() -> Json:
    return EMPTY_OBJECT


def _json(value: Any, limit: int) -> Json:
    text = strict_json.dumps(value)
    _check_size(text, limit)
    return Json(value, text)


def _check_size(text: str, limit: int) -> None:
    if len(text) * 4 > limit and len(text.encode()) > limit:
        refuse("too_large", f"is larger than {limit} bytes")


def _whole(value: object) -> int:
    """Plain ASCII digits; of a number beyond 64 bits the first 18 are kept, which is beyond every end as well."""
    if not (isinstance(value, str) and value.isascii() and value.isdigit()):
        refuse("whole_number", "must be a whole number")
    return int(value.lstrip("0")[:18] or "0")


Id = Annotated[UUID, BeforeValidator(_id), WithJsonSchema({"type": "string", "format": "uuid"})]
PathId = Annotated[UUID, Path()]
Moment = Annotated[datetime, BeforeValidator(_moment), WithJsonSchema({"type": "string", "format": "date-time"})]
UserId = Annotated[str, Field(min_length=1, max_length=255)]
Name = Annotated[
    str,
    Field(min_length=1, max_length=255, json_schema_extra={"pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}),
    AfterValidator(_no_control),
]
Sender = Annotated[str, Field(min_length=1, max_length=64)]
Content = Annotated[str, AfterValidator(_content)]
Context = Annotated[
    Json | None, PlainValidator(_any_json), PlainSerializer(_value), WithJsonSchema({"description": "Any JSON value."})
]
Metadata = Annotated[
    Json,
    PlainValidator(_object),
    PlainSerializer(_value),
    WithJsonSchema({"type": ["object", "null"], "additionalProperties": True}),
]
DocumentId = Annotated[str, Field(min_length=1, max_length=MAX_DOCUMENT_ID)]
# The bounds stand first: behind a validator pydantic leaves them out of the schema.
Whole = Annotated[int, Field(ge=0), BeforeValidator(_whole)]
Counted = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Limit = Annotated[int, Field(ge=1, le=100), BeforeValidator(_whole)]
Shown = Literal["full", "refs", "none"]
Cursor = Annotated[
    str, Field(description="`next_cursor` of the page before.", json_schema_extra={"pattern": cursor.ALPHABET})
]
