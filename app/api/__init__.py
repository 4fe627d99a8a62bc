"""The route table, in the order of the docs."""

from fastapi import FastAPI, Security
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyHeader, HTTPBearer

from app.api import documentation, documents, health, messages, sessions
from app.api.binding import answer_of
from app.api.dispatch import RouteTable
from app.api.problems import responses

# Declared so that Swagger's Authorize works; caller.py decides, before any route is looked up.
_KEYS = [Security(APIKeyHeader(name="X-API-Key", auto_error=False)), Security(HTTPBearer(auto_error=False))]


def install(app: FastAPI) -> RouteTable:
    """Add every route to `app`; the table of what answers which path and method."""
    for router in (sessions.router, messages.router, documents.router, health.router):
        app.include_router(router, dependencies=_KEYS, responses=responses(401, 403, 422, 429, 500, 503))
    app.include_router(health.probes)
    documentation.install(app)
    contexts = iter_route_contexts(app.routes)
    return RouteTable((one.path or "", one.methods or (), answer_of(one.original_route)) for one in contexts)
