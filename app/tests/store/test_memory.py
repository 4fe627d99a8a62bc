"""What a process remembers: no more than it has room for, and last of all what is asked for."""

from app.store.memory import Memory


def test_what_is_asked_for_stays_and_the_rest_makes_room() -> None:
    memory: Memory[int, bytes] = Memory(100, len)
    memory.keep(0, b"x" * 10)
    for key in range(1, 1_000):
        memory.keep(key, b"y" * 10)
        assert memory.get(0) is not None
        kept = [one for one in range(key + 1) if memory.get(one) is not None] if key % 97 == 0 else []
        assert len(kept) <= 12, "two of 50 each, and what did not fit any more"
    assert memory.get(1) is None


def test_what_is_kept_again_takes_its_room_once() -> None:
    memory: Memory[str, bytes] = Memory(100, len)
    memory.keep("other", b"x" * 10)
    for _ in range(1_000):
        memory.keep("one", b"y" * 40)
    assert memory.get("other") == b"x" * 10
    memory.clear()
    assert memory.get("one") is None
