"""What pydantic found, said in this service's words: the field by its pointer, no value that was sent."""

from pydantic import ValidationError

from app.errors import Fault, Place
from app.strict_json import is_storable, pointer

MOST = 20
"""Faults that one answer names."""

_WORDS = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown", "is not known"),
    "string_type": ("type", "must be a string"),
    "bool_type": ("type", "must be true or false"),
    "list_type": ("type", "must be a list"),
    "model_type": ("type", "must be an object"),
    "model_attributes_type": ("type", "must be an object"),
    "dict_type": ("type", "must be an object"),
    "string_too_short": ("empty", "may not be empty"),
    "string_too_long": ("too_long", "may hold {max_length} characters at most"),
    "too_short": ("empty", "may not be empty"),
    "too_long": ("too_long", "may hold {max_length} at most"),
    "greater_than_equal": ("range", "must be {ge} or more"),
    "less_than_equal": ("range", "must be {le} or less"),
    "literal_error": ("choice", "must be {expected}"),
}


def from_pydantic(place: Place, error: ValidationError) -> list[Fault]:
    """Every fault of `error`. What is not in our words is one of our own validators', whose message is fit to show."""
    faults = []
    for detail in error.errors(include_url=False, include_input=False)[:MOST]:
        kind = detail["type"]
        code, message = _WORDS.get(kind, (kind, detail["msg"]))
        path = detail["loc"]
        if not all(is_storable(str(step)) for step in path):
            path = ()
        field = pointer(path) if place == "body" else ".".join(map(str, path))
        faults.append(Fault(place, field, code, message.format(**detail.get("ctx", {}))))
    return faults
