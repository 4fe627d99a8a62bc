"""What the random calls are drawn from: few values of each kind, so that calls meet."""

from typing import Any

from hypothesis import strategies as st

from app.tests.faults.model import INSTANTS

IDS = range(4)  # of a machine's own ids
NAMES = ["Straße", "STRASSE 7", "alpha%", "Alphabet_", "İ"]
PARTS = ["ss", "ALPHA", "%", "_", "i", "zz"]
USERS = ["ada", "bob"]
OBJECTS: list[dict[str, Any]] = [
    {},
    {"a": 1},
    {"a": 1.0},
    {"a": True},
    {"a": [1, {}], "": None},
    {"": None, "a": [1, {}]},
]
TITLES = {"leave.md": "Leave", "https://example.org/%2F..?q=ü": None, "ü" * 9: None}
"""The documents that contexts name, each always with this title."""

LEAVE, TRAVEL, PLAIN = TITLES
FIRST = {"document_id": LEAVE, "chunk_id": "a", "version": "1", "title": "Leave", "text": "25 days"}
CONTEXTS: list[Any] = [
    *(None, 0, False, "", []),
    {"documents": [{"text": "25 days", "score": 1.0}]},
    {"documents": [{**FIRST, "score": 0.5, "rank": 1, "cited": True}]},
    {"query": "?", "documents": [{**FIRST, "score": 1, "in_prompt": False, "n": 1}, {"document_id": PLAIN}]},
    {"documents": [{"document_id": TRAVEL, "chunk_id": "b"}, {**FIRST, "version": "2", "text": "30 days"}]},
    [{"document_id": TRAVEL, "text": "25 days", "cited": False}, {**FIRST, "cited": True}, {**FIRST, "score": None}],
    [{"page_content": "by train", "metadata": {"source": TRAVEL}, "id": "c", "score": 0.25}],
    {"documents": [{**FIRST, "version": 2}, "odd", {"document_id": PLAIN, "text": 7, "cited": "yes"}]},
]

shown = st.sampled_from(["full", "full", "refs", "none"])
marks = st.fixed_dictionaries(
    {
        "document_id": st.sampled_from(list(TITLES)),
        "status": st.sampled_from(["withdrawn", "superseded", "superseded", "current"]),
    },
    optional={"version": st.sampled_from([None, "1", "2"]), "reason": st.sampled_from([None, "", "of 2024"])},
)
document_filters = st.fixed_dictionaries(
    {"limit": st.just(100)},
    optional={
        "document_id": st.sampled_from(list(TITLES)),
        "status": st.sampled_from(["current", "superseded", "withdrawn"]),
    },
)
use_filters = st.fixed_dictionaries(
    {"limit": st.sampled_from([1, 2, 100]), "context": shown},
    optional={
        "chunk_id": st.sampled_from(["a", "c"]),
        "version": st.sampled_from(["1", "2"]),
        "cited": st.sampled_from(["true", "false"]),
        "user_id": st.sampled_from(USERS),
        "since": st.sampled_from(list(INSTANTS.values())),
        "until": st.sampled_from(list(INSTANTS.values())),
    },
)

places = st.integers(0, 7)
keys = st.sampled_from([None, None, "k1", "k2"])
guards = st.sampled_from([None] * 6 + USERS)
rare_guards = st.sampled_from([None] * 9 + USERS[:1])
tags = st.sampled_from(["none"] * 6 + ["now", "weak", "any", "next", "before", "odd", "bare", "list"])
removal_tags = st.sampled_from(["none", "none", "none", "now", "weak", "any", "next", "before", "odd", "list"])
orders = st.sampled_from([{}, {"order": "asc"}, {"order": "desc"}])
new_sessions = st.fixed_dictionaries(
    {},
    optional={
        "id": st.sampled_from(IDS),
        "user_id": st.sampled_from([None, *USERS]),
        "name": st.sampled_from(NAMES),
        "is_favorite": st.booleans(),
        "metadata": st.sampled_from(OBJECTS),
    },
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from([None, *NAMES]),
        "is_favorite": st.booleans(),
        "metadata": st.sampled_from([None, *OBJECTS]),
    },
)
new_messages = st.fixed_dictionaries(
    {
        "sender": st.sampled_from(["user", "bot"]),
        "content": st.sampled_from(["", "one", "two"]),
        "context": st.sampled_from(CONTEXTS),
    },
    optional={
        "id": st.sampled_from([None, *IDS]),
        "metadata": st.sampled_from([None, *OBJECTS]),
        "created_at": st.sampled_from([None, *INSTANTS]),
    },
)
filters = st.fixed_dictionaries(
    {"limit": st.integers(1, 3)},
    optional={
        "user_id": st.sampled_from(USERS),
        "is_favorite": st.sampled_from(["true", "false"]),
        "name": st.sampled_from(PARTS),
    },
)
unnamed_messages = new_messages.map(lambda sent: {**sent, "id": None})
first_sessions = st.lists(new_sessions, min_size=2, max_size=3)
first_messages = st.lists(unnamed_messages, min_size=3, max_size=5)
bounds = st.one_of(*(st.fixed_dictionaries({}, optional={side: st.integers(0, 9)}) for side in ("after", "before")))
rarely = st.sampled_from([False] * 4 + [True])
stays = st.sampled_from([0, 1, 1, 2, 3, 4, 6, 9, None])
