"""Swagger UI at /docs from local files (a page that loads from a CDN is blank offline), and the OpenAPI text."""

from pathlib import Path
from typing import Any

import fastapi_swagger
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from app import VERSION
from app.api.problems import problem_schema
from app.models import EXAMPLES

ASSETS = Path(fastapi_swagger.__file__).parent / "resources"

_ABOUT = (
    "Keeps the conversations of RAG chatbots: sessions, messages, and the context each answer stood on.\n\n"
    "Send your key as `X-API-Key` or `Authorization: Bearer`. "
    "Errors are `application/problem+json` with a stable `code`."
)

_TAGS = [
    {"name": "sessions", "description": "Conversations."},
    {"name": "messages", "description": "What was said, with the context it stood on."},
    {"name": "service", "description": "The service itself."},
    {"name": "probes", "description": "For orchestrators and monitoring: no key, not counted by the rate limit."},
]


def install(app: FastAPI) -> None:
    """Add /docs with its assets, /favicon.ico and /openapi.json to `app`."""
    app.mount("/docs/assets", StaticFiles(directory=ASSETS))

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

    @app.get("/favicon.ico", include_in_schema=False)
    async def favicon() -> Response:
        return FileResponse(ASSETS / "favicon-32x32.png")

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(schema(app))


def schema(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of `app`, made at the first call."""
    if app.openapi_schema is None:
        document = get_openapi(
            title="RAG Chat Storage", version=VERSION, description=_ABOUT, routes=app.routes, tags=_TAGS
        )
        schemas = document["components"]["schemas"]
        schemas["Problem"] = problem_schema()
        for noun, example in EXAMPLES.items():
            schemas[noun]["example"] = example
        app.openapi_schema = document
    return app.openapi_schema
