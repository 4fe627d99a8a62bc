"""Connection strings that hosts hand out."""

import pytest

from app.db import dsn
from app.errors import Refused


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+asyncpg://u:p@h:5432/d", {"dsn": "postgresql://u:p@h:5432/d"}),
        ("postgres://u:p%40%2F@h/d?sslmode=require", {"dsn": "postgresql://u:p%40%2F@h/d?sslmode=require"}),
        ("postgresql+psycopg2://u@h/d?ssl=require", {"dsn": "postgresql://u@h/d?sslmode=require"}),
        ("postgresql://h/d?connect_timeout=7", {"dsn": "postgresql://h/d", "timeout": 7.0}),
        ("postgresql://h/d?statement_cache_size=0", {"dsn": "postgresql://h/d", "statement_cache_size": 0}),
        ("postgresql://h/d?channel_binding=prefer&keepalives=1", {"dsn": "postgresql://h/d"}),
        ("postgresql://a:1,b:2/d", {"dsn": "postgresql://a:1,b:2/d"}),
        ("postgresql:///d?host=a:1&host=b:2", {"dsn": "postgresql:///d?host=a,b&port=1,2"}),
        ("postgresql://u@/d?host=/run/pg", {"dsn": "postgresql://u@/d?host=/run/pg"}),
        ("postgresql://h/d?application_name=x", {"dsn": "postgresql://h/d?application_name=x"}),
    ],
)
def test_a_url_is_handed_to_the_driver(url: str, expected: dict[str, object]) -> None:
    assert dsn.parse(url).arguments == expected


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("mysql://h/d", "postgresql://"),
        ("h:5432/d", "postgresql://"),
        ("postgresql://h/d?channel_binding=require", "channel_binding"),
        ("postgresql://h/d?gssencmode=require", "gssencmode"),
        ("postgresql://h/d?pool_size=3", "pool_size"),
        ("postgresql://h/d?connect_timeout=soon", "connect_timeout"),
        ("postgresql://h/d?sslmode", "query"),
        ("postgresql://h:port/d", "port"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(url: str, named: str) -> None:
    with pytest.raises(Refused, match=named):
        dsn.parse(url)


def test_the_description_holds_no_password() -> None:
    assert dsn.parse("postgresql://u:secret@h:1/d?password=secret").description == "h:1/d"
