"""Swagger UI at /docs from local files (a page that loads from a CDN is blank offline), and the OpenAPI text."""

from functools import cache
from pathlib import Path
from typing import Any

import fastapi_swagger
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app import VERSION
from app.api.problems import problem_schema
from app.errors import NotFound
from app.models import EXAMPLES

_ICON = "favicon-32x32.png"
_ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css", _ICON: "image/png"}

_ABOUT = (
    "Keeps the conversations of RAG chatbots: sessions, messages, and the context each answer stood on.\n\n"
    "Send your key as `X-API-Key` or `Authorization: Bearer`. "
    "Errors are `application/problem+json` with a stable `code`."
)

_TAGS = [
    {"name": "sessions", "description": "Conversations."},
    {"name": "messages", "description": "What was said, with the context it stood on."},
    {"name": "documents", "description": "The sources of answers: which answers stood on one, and its mark."},
    {"name": "service", "description": "The service itself."},
    {"name": "probes", "description": "For orchestrators and monitoring: no key, not counted by the rate limit."},
]


def install(app: FastAPI) -> None:
    """Add /docs with its assets, /favicon.ico and /openapi.json to `app`.

    Not as static files: Starlette answers an odd Range with text of its own.
    """

    @app.get("/docs", include_in_schema=False)
    async def docs(request: Request) -> Response:
        root = request.scope.get("root_path", "")
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title="RAG Chat Storage",
            swagger_js_url=f"{root}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/favicon.ico",
            swagger_ui_parameters={"persistAuthorization": True, "displayRequestDuration": True},
        )

    @app.get("/docs/assets/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in _ASSETS:
            raise NotFound
        return Response(_read(name), media_type=_ASSETS[name])

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> Response:
        return Response(_read(_ICON), media_type=_ASSETS[_ICON])

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(schema(app))


@cache
def _read(name: str) -> bytes:
    return (Path(fastapi_swagger.__file__).parent / "resources" / name).read_bytes()


def schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, made at the first call."""
    if app.openapi_schema is None:
        document = get_openapi(
            title="RAG Chat Storage", version=VERSION, description=_ABOUT, routes=app.routes, tags=_TAGS
        )
        _take_null_from_parameters(document)
        schemas = document["components"]["schemas"]
        schemas["Problem"] = problem_schema()
        for noun, example in EXAMPLES.items():
            schemas[noun]["example"] = example
        app.openapi_schema = document
    return app.openapi_schema


def _take_null_from_parameters(document: dict[str, Any]) -> None:
    """A query or a header cannot hold null: what is optional may only be left out."""
    operations = (operation for methods in document["paths"].values() for operation in methods.values())
    for parameter in (parameter for operation in operations for parameter in operation.get("parameters", ())):
        schema = parameter["schema"]
        kinds = [kind for kind in schema.pop("anyOf", ()) if kind != {"type": "null"}]
        if kinds:
            (kind,) = kinds
            parameter["schema"] = kind | schema
