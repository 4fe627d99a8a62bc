"""Loaded by schemathesis: what it may not hold against the service, said exactly.

Its own check of accepted data asks for a 2xx whenever a request fits the document. Some rules no JSON Schema
can tell; these codes name them, and any other refusal of such a request is a gap in the document.
"""

from typing import Any

import schemathesis

_BEYOND_A_SCHEMA = {
    "conflict",  # two fields, or a field and a header, that contradict each other
    "conflicting_parameters",  # page beside after
    "duplicate_id",  # two items of one batch
    "invalid_cursor",  # well-formed, and made up
    "number_out_of_range",  # anywhere in any JSON
    "time",  # RFC 3339, and beyond the year 9999 in UTC
    "too_deep",
    "too_large",  # in bytes as stored
    "unstorable_text",  # in any string or key at any depth
}
_MISTAKEN = ("If-Match", "invalid_header")  # 4.32 takes the tag's quotes for JSON's, and sends 0 for "0"


@schemathesis.check
def refuses_only_what_no_schema_can_tell(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> bool | None:
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in (400, 415, 422):
        return True
    problem: dict[str, Any] = response.json()
    faults = {(fault["field"], fault["code"]) for fault in problem.get("errors", [])}
    assert faults, problem
    assert _MISTAKEN in faults or {code for _, code in faults} & _BEYOND_A_SCHEMA, problem
    return None
