"""The service answers what its OpenAPI document says, whatever the document allows or forbids is sent."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.tests.faults.openapi_fuzz import fuzz
from app.tests.harness import Chat, Service


@pytest.mark.skipif(find_spec("schemathesis") is None, reason="no schemathesis: `make check` installs it")
async def test_no_answer_is_a_5xx_or_other_than_documented(service: Service, chat: Chat, tmp_path: Path) -> None:
    status, output = await fuzz(tmp_path, service.url, chat.key, "--max-examples=2", "--generation-deterministic")
    assert status == 0, output
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert re.search(rf"✅\s+{phase}\n", output), output
