"""What is understood of a context, what is told of the rest, and that the parts of a context make it again."""

from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app import splitting, strict_json
from app.evidence import MAX_DOCUMENT_ID, MOST_WARNINGS, Context, document_ref, read, understand
from app.splitting import StoredDocument
from app.tests.api.test_contexts import CONTEXTS
from app.tests.api.test_round_trip import exact

LONG = "x" * (MAX_DOCUMENT_ID + 1)


def parts(value: Any, first: dict[bytes, StoredDocument]) -> tuple[str, list[StoredDocument]]:
    """The form of a context with the documents it names; `first` is what is stored, before and after."""
    context: Context = understand(value, strict_json.dumps(value))
    places = {}
    for index, (place, digest) in enumerate(context.digests.items()):
        new = StoredDocument.parse(len(first), -1, splitting.body(context.at(place)))
        places[place] = (index, first.setdefault(digest, new))
    return splitting.split(value, places), [stored for _, stored in places.values()]


@given(st.lists(CONTEXTS, min_size=1, max_size=4))
@example([[{"text": "t", "score": "},{"}, {"text": "u"}, {"text": "v", "score": [{}]}, {"text": "w", "score": 1}]])
def test_parts_make_the_context_again_whatever_was_stored_before(contexts: list[Any]) -> None:
    first: dict[bytes, StoredDocument] = {}
    for value in contexts:
        if understand(value, strict_json.dumps(value)).digests:
            form, stored = parts(value, first)
            for with_texts in (True, False):
                wanted = exact(value if with_texts else splitting.without_texts(value))
                shown = splitting.restore(orjson.loads(form), stored, with_texts=with_texts)
                assert exact(shown) == wanted
                shown = splitting.rendered(orjson.loads(form), stored, with_texts=with_texts)
                assert exact(orjson.loads(orjson.dumps(shown))) == wanted


def test_a_form_holds_what_differs_and_no_text() -> None:
    first = {"document_id": "d", "text": "words", "title": "T", "metadata": {"a": 1}, "score": 0.5}
    later = {"document_id": "d", "text": "words", "metadata": {"a": 1.0}, "score": 0.4, "new": None}
    again = {**first, "rank": 2, "in_prompt": True}
    ranked = {"document_id": "d", "text": "words", "title": "T", "metadata": {"a": 1}, "rank": 3}
    form, _ = parts([first, later, again, ranked, "odd", [7]], {})
    use = {"metadata": {"a": 1.0}, "score": 0.4, "new": None}
    usual = [[0, [0.5]], [1, use, ["title"]], [2, [0.5, 2, True]], [3, {"rank": 3}]]
    assert orjson.loads(form) == [*usual, ["odd"], [[7]]]


@pytest.mark.parametrize(
    ("context", "fields"),
    [
        ({"documents": []}, ""),
        ({"documents": None, "query": None, "latency_ms": 3, "retriever": {"name": "bm25", "version": "1"}}, ""),
        ({"documents": {}, "latency_ms": True}, "/documents /latency_ms"),
        ({"query": 1, "latency_ms": "3", "embedding_model": []}, "/query /latency_ms /embedding_model"),
        ({"retriever": "bm25"}, "/retriever"),
        ({"retriever": {"name": 1, "version": 2}}, "/retriever/name /retriever/version"),
        ({"documents": ["text", 1, None, {}, True]}, "/documents/0 /documents/1 /documents/2 /documents/4"),
        ([{"text": 1}, "text"], "/0/text /1"),
        ({"documents": [{"a/b~": 1, "score": None, "metadata": None}]}, ""),
        ([{"rank": "1", "cited": 1, "metadata": []}], "/0/rank /0/cited /0/metadata"),
        ({"documents": [{"document_id": 7}, {"document_id": ""}]}, "/documents/0/document_id /documents/1/document_id"),
        ({"documents": [{"document_id": "\U0001f378" * MAX_DOCUMENT_ID}]}, ""),
        ({"documents": [{}] * 200}, ""),
        ({"documents": [{}] * 201}, "/documents"),
        ([1] * 201, "/"),
        ("text", ""),
        (7, ""),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_odd_is_told_by_field(context: Any, fields: str) -> None:
    told = [warning.field.removeprefix("/context") or "/" for warning in read(context, ("context",))[1]]
    assert " ".join(told) == fields


def test_an_odd_field_costs_only_itself() -> None:
    [document], _ = read([{"document_id": "d", "score": "0.9", "rank": 1, "cited": True, "text": 5, "version": 2}])
    assert (document.document_id, document.rank, document.cited) == ("d", 1, True)
    assert (document.score, document.text, document.version) == (None, None, None)


def test_no_more_is_told_than_somebody_reads() -> None:
    warnings = read({"documents": [{"score": "1", "rank": "1"}] * 200})[1]
    assert len(warnings) == MOST_WARNINGS + 1
    assert warnings[-1].message.startswith("300 more")


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"document_id": LONG}, "document_id"),
        ({"page_content": "t", "metadata": {"source": LONG}}, "metadata/source"),
        ({"page_content": "t", "id": LONG}, "id"),
        ({"page_content": "t", "id": LONG, "document_id": LONG}, "document_id"),
    ],
    ids=["its own", "source", "id", "several"],
)
def test_a_long_id_is_told_of_where_it_stands(document: dict[str, Any], field: str) -> None:
    [understood], [warning] = read({"documents": [document]}, ("context",))
    assert (warning.field, understood.document_id) == (f"/context/documents/0/{field}", None)


@pytest.mark.parametrize(
    ("document", "understood"),
    [
        ({"page_content": "t", "id": "c", "metadata": {"source": "s"}}, ("t", "c", "s")),
        ({"page_content": "t", "id": "c", "metadata": {}}, ("t", "c", "c")),
        ({"page_content": "t", "id": None, "metadata": {"source": ""}}, ("t", None, None)),
        ({"page_content": "t", "id": 7, "metadata": {"source": 7}}, ("t", None, None)),
        ({"page_content": "t", "id": "c", "metadata": {"source": "s"}, "document_id": "d"}, ("t", "c", "d")),
        ({"page_content": "t", "text": None, "id": "c"}, ("t", "c", "c")),
        ({"page_content": "p", "text": "t", "id": "c", "metadata": {"source": "s"}}, ("t", None, None)),
        ({"page_content": 5, "id": "c", "metadata": {"source": "s"}}, (None, None, None)),
        ({"id": "c", "metadata": {"source": "s"}}, (None, None, None)),
    ],
    ids=repr,
)
def test_langchains_document_is_understood_as_it_is(document: dict[str, Any], understood: tuple[Any, ...]) -> None:
    [found], warnings = read([document])
    assert (found.text, found.chunk_id, found.document_id) == understood
    assert warnings == []


def test_a_document_is_told_from_others_by_its_identity_and_text_alone() -> None:
    same = {"document_id": "d", "chunk_id": "c", "version": "1", "text": "t"}
    others: list[dict[str, Any]] = [{**same, name: "other"} for name in same] + [
        {k: v for k, v in same.items() if k != name} for name in same
    ]
    others += [{**same, "page_content": same["text"], "text": None}]
    digests = [document.digest() for document in read([same, {**same, "score": 1, "title": "T"}, *others])[0]]
    assert digests[0] == digests[1]
    assert len(set(digests)) == len(digests) - 1


def test_a_document_of_two_tenants_has_two_negative_refs() -> None:
    refs = {document_ref(1, "d"), document_ref(2, "d"), document_ref(1, "1d"), document_ref(11, "d")}
    assert len(refs) == 4
    assert all(-(2**63) <= ref < 0 for ref in refs)
