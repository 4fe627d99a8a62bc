"""What is written when an answer goes out: its head with its body, and nothing is held for long."""

import asyncio
from collections.abc import Iterable

import pytest

from app.corked import Corked

HEAD, BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"{}"


class Recording(asyncio.Transport):
    """Each write as the operating system would get it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written.append(b"".join(list_of_data))

    def close(self) -> None:
        self.written.append(b"closed")


@pytest.fixture
def transport() -> Recording:
    return Recording()


@pytest.fixture
async def corked(transport: Recording) -> Corked:
    return Corked(transport, asyncio.get_running_loop())


async def test_a_head_and_its_body_are_one_write(corked: Corked, transport: Recording) -> None:
    for _ in range(2):
        corked.write(HEAD)
        corked.write(BODY)
    await asyncio.sleep(0)
    assert transport.written == [HEAD + BODY] * 2


async def test_a_head_without_a_body_waits_for_one_round(corked: Corked, transport: Recording) -> None:
    corked.write(HEAD)
    assert not transport.written
    await asyncio.sleep(0)
    assert transport.written == [HEAD]
    corked.write(BODY)
    assert transport.written == [HEAD, BODY]


async def test_who_is_told_to_go_on_is_told_at_once(corked: Corked, transport: Recording) -> None:
    corked.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert transport.written == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def test_what_is_held_goes_out_before_the_end(corked: Corked, transport: Recording) -> None:
    corked.write(HEAD)
    corked.close()
    assert transport.written == [HEAD, b"closed"]
    await asyncio.sleep(0)
    assert transport.written == [HEAD, b"closed"]
