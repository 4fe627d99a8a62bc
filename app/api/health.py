"""Health, probes and metrics: whether this process and its database can serve."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from app import VERSION
from app.api.binding import BoundRoute
from app.telemetry import metrics

router = APIRouter(route_class=BoundRoute, tags=["service"])
probes = APIRouter(tags=["probes"])

_STARTED = time.monotonic()

_HEALTHY = {"status": "healthy", "version": VERSION, "database": "up", "uptime_seconds": 3600, "protected_mode": False}
_UNHEALTHY = {"status": "unhealthy", "version": VERSION, "database": "down"}


def _example(value: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"example": value}}}


@router.get(
    "/health",
    operation_id="getHealth",
    summary="Health, with the database's",
    responses={200: _example(_HEALTHY, "Healthy"), 503: _example(_UNHEALTHY, "The database does not answer")},
)
async def health(request: Request) -> Response:
    state = request.app.state
    if not await state.db.ping():
        return JSONResponse(_UNHEALTHY, 503)
    return JSONResponse(
        _HEALTHY
        | {
            "uptime_seconds": int(time.monotonic() - _STARTED),
            "protected_mode": state.settings.protected_mode,
        }
    )


@probes.get(
    "/livez",
    operation_id="isAlive",
    summary="Whether the process answers; never asks the database",
    responses={200: _example({"status": "alive"}, "Alive")},
)
async def livez() -> Response:
    return JSONResponse({"status": "alive"})


@probes.get(
    "/readyz",
    operation_id="isReady",
    summary="Whether requests can be served now",
    responses={
        200: _example({"status": "ready"}, "Ready"),
        503: _example({"status": "not_ready"}, "The database is away, or the server is draining"),
    },
)
async def readyz(request: Request) -> Response:
    if not request.app.state.draining and await request.app.state.db.ping():
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not_ready"}, 503)


@probes.get(
    "/metrics",
    operation_id="getMetrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
)
async def scrape(request: Request) -> Response:
    ready = await request.app.state.db.ping()
    body, content_type = await asyncio.to_thread(metrics.render, ready=ready)
    return Response(body, headers={"Content-Type": content_type})
