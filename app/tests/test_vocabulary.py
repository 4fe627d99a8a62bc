"""The vocabulary: times, ids, cursors, addresses, JSON."""

import base64
import json
import re
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import addresses, cursor, ids, strict_json, times
from app.api import answers
from app.errors import Invalid, MalformedJson

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = UUID("0193b5f9-e1c2-7d0a-8a55-9d516c1f0d2a")


@pytest.mark.parametrize(
    "text",
    [
        "2026-03-01T12:00:00Z",
        "2026-03-01T12:00:00.000000+00:00",
        "2026-03-01T17:30:00+05:30",
        "2026-03-01T12:00:00-00:00",
        "2026-03-01 12:00:00Z",
        "2026-03-01t12:00:00.0000009z",
    ],
)
def test_one_instant_in_every_spelling(text: str) -> None:
    assert times.parse(text) == NOON


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-12:00",
        "2026-03-01T12:00:00",
        "2026-03-01",
        "2026-03-01T12:00Z",
        "2016-12-31T23:59:60Z",
        "2026-02-30T00:00:00Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T12:00:00+05:99",
        "10000-01-01T00:00:00Z",
        "-0001-01-01T00:00:00Z",
        "2026-03-01T12:00:00 +05:30",
        "٢٠٢٦-03-01T12:00:00Z",
        "infinity",
        "1772366400",
        "",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - it carries no message
        times.parse(text)


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_comes_back_from_its_text(moment: datetime) -> None:
    text: str = orjson.loads(answers.dumps(times.render(moment)))
    assert times.parse(text) == moment
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)


def test_new_ids_are_version_7_and_in_order() -> None:
    made = [ids.new() for _ in range(3)]
    assert {(id_.version, id_.variant) for id_ in made} == {(7, "specified in RFC 4122")}
    milliseconds = [id_.int >> 80 for id_ in made]
    assert milliseconds == sorted(milliseconds)


@pytest.mark.parametrize("text", ["{%s}", "urn:uuid:%s", " %s", "%s\n"])
def test_other_spellings_of_an_id_are_none(text: str) -> None:
    assert ids.parse(text % ID) is None
    assert ids.parse(ID.hex) is None
    assert ids.parse(str(ID).upper()) == ID


@given(st.datetimes(timezones=st.just(UTC)), st.uuids())
def test_a_cursor_comes_back_and_is_url_safe(at: datetime, id_: UUID) -> None:
    packed = cursor.pack("list", at, id_.bytes)
    assert packed.replace("-", "").replace("_", "").isalnum()
    assert cursor.unpack("list", packed, 16) == (at, id_.bytes)


@given(st.integers(0, 43), st.sampled_from("AZaz09-_"))
def test_a_damaged_cursor_is_refused(place: int, character: str) -> None:
    packed = cursor.pack("list", NOON, ID.bytes)
    damaged = packed[:place] + character + packed[place + 1 :]
    if damaged != packed:
        with pytest.raises(Invalid):
            cursor.unpack("list", damaged, 16)


@pytest.mark.parametrize("position", [b"\x7f" * 24, b"\0" * 23, b"\0" * 25, b"\0" * 8, b""], ids=len)
def test_a_forged_cursor_beyond_all_times_or_of_another_length_is_refused(position: bytes) -> None:
    digest = cursor._digest("list", position)  # noqa: SLF001 - keyless
    forged = base64.urlsafe_b64encode(position + digest).decode().rstrip("=")
    with pytest.raises(Invalid):
        cursor.unpack("list", forged, 16)


@pytest.mark.parametrize(
    "sent", ["", "A", "é", cursor.pack("list", NOON, ID.bytes)[:-1], cursor.pack("other", NOON, ID.bytes)]
)
def test_a_cut_or_foreign_cursor_is_refused(sent: str) -> None:
    with pytest.raises(Invalid) as refusal:
        cursor.unpack("list", sent, 16)
    assert refusal.value.code == "invalid_cursor"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_who_shares_a_bucket(one: str, other: str, same: bool) -> None:
    assert (addresses.bucket(one) == addresses.bucket(other)) is same


@pytest.mark.parametrize(
    ("host", "near"),
    [
        *(("127.0.0.1", True), ("::1", True), ("10.1.2.3", True), ("172.20.0.1", True), ("192.168.1.9", True)),
        *(("::ffff:10.0.0.1", True), ("fd00::1", True), ("fe80::1%eth0", True), ("", True)),
        *(("8.8.8.8", False), ("2001:4860:4860::8888", False), ("::ffff:8.8.8.8", False), ("not-an-address", False)),
    ],
)
def test_who_is_near(host: str, near: bool) -> None:
    assert addresses.is_near(host) is near


STORABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**999), 10**999)
    | st.floats(allow_nan=False, allow_infinity=False)
    | STORABLE,
    lambda inner: st.lists(inner) | st.dictionaries(STORABLE, inner),
)


@given(JSON, st.booleans())
def test_json_comes_back_equal_however_it_was_escaped(value: object, ascii_only: bool) -> None:
    sent = json.dumps(value, ensure_ascii=ascii_only).encode()
    parsed = strict_json.parse(sent)
    assert repr(parsed) == repr(value)
    assert repr(json.loads(strict_json.dumps(parsed))) == repr(value)


@pytest.mark.parametrize(
    ("raw", "code", "field"),
    [
        (b'{"a":"\\ud800"}', "unstorable_text", "/a"),
        (b'{"a":[1,{"b/c~d":"\\u0000"}]}', "unstorable_text", "/a/1/b~1c~0d"),
        (b'{"a":{"\\udc00":1}}', "unstorable_text", "/a"),
        (b'{"a":1e999}', "number_out_of_range", "/a"),
        (b'{"a":[-1e999]}', "number_out_of_range", "/a/0"),
        (b'{"a":[1e-400]}', "number_out_of_range", "/a/0"),
        (b'{"a":-2E-324}', "number_out_of_range", "/a"),
        (b'{"a":' + b"9" * 1_001 + b"}", "number_out_of_range", "/a"),
        (b'{"a":' + b"9" * 100_000 + b"}", "number_out_of_range", "/a"),
        (b'{"x":"[{","a":' + b"[" * 101 + b"]" * 101 + b"}", "too_deep", "/a"),
        (b'{"a":' + b"[" * 1_000_000, "too_deep", "/a"),
        (b"[" * 1_000_000, "too_deep", "/0"),
    ],
    ids=lambda value: repr(value[:12]),
)
def test_json_that_cannot_be_kept_is_refused_by_field(raw: bytes, code: str, field: str) -> None:
    with pytest.raises(Invalid) as refusal:
        strict_json.parse(raw)
    assert (refusal.value.code, refusal.value.faults[0].field) == (code, field)


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a":NaN}', b"-Infinity", b"\xff", b'"\xed\xa0\x80"', b"{'a':1}", b"01"])
def test_what_is_no_json_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedJson):
        strict_json.parse(raw)


def test_the_smallest_doubles_and_any_zero_are_kept() -> None:
    small = strict_json.parse(b"[5e-324, -4.9E-324, 3e-0324, 0e-999, -0.00E-999]")
    assert strict_json.dumps(small) == "[5e-324,-5e-324,5e-324,0.0,-0.0]"


def test_a_hundred_levels_are_not_too_deep() -> None:
    assert strict_json.parse(b'{"a":' + b"[" * 100 + b"]" * 100 + b"}")


def test_a_fingerprint_ignores_key_order_and_tells_1_from_1_0() -> None:
    assert strict_json.fingerprint({"a": 1, "b": 2}) == strict_json.fingerprint({"b": 2, "a": 1})
    assert strict_json.fingerprint({"a": 1}) != strict_json.fingerprint({"a": 1.0})
    assert strict_json.same('{"a":1,"b":[2]}', '{ "b": [2], "a": 1 }')
    assert not strict_json.same('{"a":1}', '{"a":1.0}')
