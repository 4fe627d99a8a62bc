"""The live service and a model of a few lists agree on every answer."""

import asyncio

from app.tests.faults import play
from app.tests.harness import Service


async def test_the_service_answers_as_its_model_does(service: Service) -> None:
    calls = await asyncio.to_thread(play.play, service, asyncio.get_running_loop(), 20, random=False)
    assert {"POST 201", "POST 200", "POST 409", "PUT 200"} <= set(calls)
    assert {"DELETE 204", "DELETE 200", "GET 200", "GET 404"} <= set(calls)
    assert [name for name in calls if name.endswith(" 412")]
