"""Every error this service answers with, and the one it refuses to start with.

    Refused                                  the process does not start; one line says why
    Problem                                  an answer, rendered by api/problems.py as RFC 9457
    ├── MalformedRequest · MalformedJson · InvalidHeader    400
    ├── Unauthorized                         401
    ├── ExampleKey                           403
    ├── NotFound                             404
    ├── MethodNotAllowed                     405
    ├── HeadTimeout · BodyTimeout            408
    ├── IdempotencyConflict · IdTaken        409
    ├── RevisionMismatch                     412
    ├── BodyTooLarge                         413
    ├── UnsupportedMediaType                 415
    ├── Invalid                              422, one or more Faults that name their field
    ├── RateLimited                          429
    ├── HeadTooLarge                         431
    ├── InternalError                        500
    ├── Overloaded · DatabaseUnavailable (NotExecuted, ReadOnly) · TimedOut    503
    └── DiskFull                             507

`code` is stable and meant for programs; `detail` is for people and never repeats a value that was sent.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from uuid import UUID

Place = Literal["body", "query", "path", "header"]


class Refused(Exception):  # noqa: N818 - "start refused" is how the docs and the log call it
    """The process cannot start. The message is one line that names the cause and the way out."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one field: a JSON Pointer in a body, the plain name elsewhere."""

    place: Place
    field: str
    code: str
    message: str


class Problem(Exception):  # noqa: N818 - RFC 9457 calls the answer a problem
    """An answer other than success. Subclasses fix status and code; `members` are added to the JSON body."""

    status: ClassVar[int]
    code: str

    def __init__(
        self,
        detail: str,
        *,
        faults: tuple[Fault, ...] = (),
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = faults
        self.headers = dict(headers or {})
        self.members = dict(members or {})


class MalformedRequest(Problem):
    status = 400
    code = "malformed_request"

    def __init__(self) -> None:
        super().__init__("These bytes are not an HTTP/1.1 request.")


class MalformedJson(Problem):
    status = 400
    code = "malformed_json"

    def __init__(self, detail: str, *, pointer: str = "") -> None:
        super().__init__(f"body: {detail}", faults=(Fault("body", pointer, self.code, detail),))


class InvalidHeader(Problem):
    status = 400
    code = "invalid_header"

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}", faults=(Fault("header", name, self.code, message),))


class Unauthorized(Problem):
    status = 401
    code = "unauthorized"

    def __init__(self) -> None:
        super().__init__(
            "A valid key is required, as 'X-API-Key: <key>' or 'Authorization: Bearer <key>'.",
            headers={"WWW-Authenticate": "Bearer"},
        )


class ExampleKey(Problem):
    status = 403
    code = "example_key"

    def __init__(self) -> None:
        super().__init__(
            "The documented example key is answered only on loopback and private addresses. "
            "Set API_KEY to a key of your own and restart the service."
        )


class NotFound(Problem):
    status = 404
    code = "not_found"

    def __init__(self, what: str = "This path") -> None:
        super().__init__(f"{what} does not exist.")


class MethodNotAllowed(Problem):
    status = 405
    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This path takes {allowed}.", headers={"Allow": allowed})


class HeadTimeout(Problem):
    status = 408
    code = "head_timeout"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"The request line and headers did not arrive within {seconds:g} seconds.")


class BodyTimeout(Problem):
    status = 408
    code = "body_timeout"

    def __init__(self, seconds: float, rate: int) -> None:
        super().__init__(
            f"The body did not arrive within {seconds:g} seconds and one more for each {rate} bytes.",
            headers={"Connection": "close"},
        )


class IdempotencyConflict(Problem):
    status = 409
    code = "idempotency_conflict"

    def __init__(self, what: str, known: Iterable[UUID] = ()) -> None:
        """`known` are the ids of messages that are stored, of those that were sent."""
        ids = [str(id_) for id_ in known]
        super().__init__(
            f"An id of this request belongs to a stored {what}, and the request differs from it. Nothing was written.",
            members={"known": ids} if ids else None,
        )


class IdTaken(Problem):
    status = 409
    code = "id_taken"

    def __init__(self) -> None:
        super().__init__("This id is already in use.")


class RevisionMismatch(Problem):
    status = 412
    code = "revision_mismatch"

    def __init__(self, revision: int) -> None:
        super().__init__(
            "The session has changed: its revision is no longer the one in If-Match.", members={"revision": revision}
        )


class BodyTooLarge(Problem):
    status = 413
    code = "body_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes.", headers={"Connection": "close"})


class UnsupportedMediaType(Problem):
    status = 415
    code = "unsupported_media_type"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)


class Invalid(Problem):
    """One or more fields cannot be accepted. The first fault gives the answer its code."""

    status = 422
    CODES: ClassVar = frozenset(
        (
            "unstorable_text",
            "number_out_of_range",
            "too_deep",
            "too_large",
            "duplicate_id",
            "conflicting_parameters",
            "invalid_cursor",
        )
    )

    def __init__(self, *faults: Fault) -> None:
        first = faults[0]
        self.code = first.code if first.code in self.CODES else "validation_error"
        name = first.field.lstrip("/") or first.place
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{name}: {first.message}{more}", faults=faults)


class RateLimited(Problem):
    status = 429
    code = "rate_limited"

    def __init__(self, limit: str, headers: Mapping[str, str]) -> None:
        super().__init__(f"More than {limit} from this address (the setting RATE_LIMIT).", headers=headers)


class HeadTooLarge(Problem):
    status = 431
    code = "head_too_large"

    def __init__(self, limit: int, headers: int) -> None:
        super().__init__(f"The request line and headers are larger than {limit} bytes, or more than {headers} headers.")


class InternalError(Problem):
    status = 500
    code = "internal_error"

    def __init__(self) -> None:
        super().__init__("An internal error. The log has the details under this request id.")


class Unavailable(Problem):
    """The service cannot answer now; the same request may succeed a moment later."""

    status = 503
    message = ""

    def __init__(self) -> None:
        super().__init__(self.message, headers={"Retry-After": "1"})


class Overloaded(Unavailable):
    code = "overloaded"
    message = "Too many requests are waiting."


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    message = "The database does not answer."


class NotExecuted(DatabaseUnavailable):
    """The statement did nothing, and a second run may: the schema has changed since it was prepared."""


class ReadOnly(NotExecuted):
    """The server takes no writes: it is not the primary, or no longer. A second run goes to another connection."""


class TimedOut(Unavailable):
    code = "timeout"
    message = "The database took too long."


class DiskFull(Problem):
    status = 507
    code = "disk_full"

    def __init__(self) -> None:
        super().__init__("The database has no space left; nothing of this request was stored.")
