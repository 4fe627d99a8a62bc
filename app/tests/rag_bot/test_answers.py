"""Answering from chunks: with their sentences, and through a chat model."""

import json
import re
from pathlib import Path

import pytest
from answers import NOTHING_FOUND, ChatModel, ModelError, Turn, evidence, extract

from app.tests.rag_bot.answering import LOST, Reply, answering, completion
from app.tests.rag_bot.documents import search


def test_the_answer_quotes_the_best_sentence_and_names_its_chunk(folder: Path) -> None:
    hits = search(folder, "For how long is a session that is a favorite kept?")
    answer = extract("For how long is a session that is a favorite kept?", hits)
    assert "A session that is a favorite is kept for ever. [1]" in answer.text
    assert answer.cited == {1}


def test_a_block_of_code_is_quoted_with_the_line_that_announces_it(folder: Path) -> None:
    hits = search(folder, "How do I run the installer?")
    answer = extract("How do I run the installer?", hits)
    assert answer.text == "Run the installer:\n```bash\n# not a heading\n\n./install --prefix /opt\n```\n[1]"


def test_what_a_colon_announces_is_quoted_with_it_or_not_at_all(tmp_path: Path) -> None:
    source = "To stop it:\n\n- press the button\n- wait\n\nAlways stop it like this:"
    (tmp_path / "stop.md").write_text(source)
    answer = extract("How do I stop it?", search(tmp_path, "stop"))
    assert answer.text == "To stop it:\n- press the button [1]"


def test_a_question_that_finds_nothing_is_answered_so(folder: Path) -> None:
    assert extract("zeppelin", search(folder, "zeppelin")) == (NOTHING_FOUND, frozenset())


def test_evidence_has_the_shape_of_the_contract(folder: Path) -> None:
    question = "installer guide session oil gears setup"
    hits = search(folder, question)
    answer = extract(question, hits[:4])
    found = evidence(question, hits, answer, 1.5)
    assert (found["query"], found["latency_ms"], found["retriever"]["name"]) == (question, 1.5, "bm25s")
    assert re.fullmatch(r"\d+\.\d+.*", found["retriever"]["version"])
    first = found["documents"][0]
    assert list(first) == ["document_id", "chunk_id", "title", "text", "score", "rank", "in_prompt", "cited"]
    assert first["text"] == hits[0].chunk.text
    assert [document["in_prompt"] for document in found["documents"]] == [True, True, True, True, False, False]
    assert {document["rank"] for document in found["documents"] if document["cited"]} == answer.cited != set()
    assert json.loads(json.dumps(found)) == found


def test_a_chat_model_is_given_the_passages_the_earlier_turns_and_the_question(folder: Path) -> None:
    hits = search(folder, "How long is a session kept?")[:2]
    turns = [Turn("user", "Hello"), Turn("assistant", "Hi")]
    with answering(completion("Thirty days [1], says [7].")) as (url, received):
        answer = ChatModel(f"{url}/v1/", "secret", "small").answer("How long is a session kept?", hits, turns)
    assert answer == ("Thirty days [1], says [7].", frozenset({1}))
    (request,) = received
    assert (request.path, request.headers["Authorization"]) == ("/v1/chat/completions", "Bearer secret")
    assert request.body["model"] == "small"
    system, *conversation = request.body["messages"]
    assert "[1] The Guide\nCleaning up\n\nSessions are kept for thirty days." in system["content"]
    assert conversation == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "How long is a session kept?"},
    ]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(401), "answered 401: check OPENAI_API_KEY"),
        (Reply(500), "answered 500"),
        (Reply(200, body=b"<html>"), "did not answer with a chat completion: check OPENAI_BASE_URL"),
        (Reply(200, body=b'{"choices": []}'), "did not answer with a chat completion"),
        (completion(None), "answered without text"),
        (LOST, "did not answer"),
    ],
)
def test_a_chat_model_that_fails_is_a_one_line_error(reply: Reply, message: str) -> None:
    with answering(reply) as (url, _), pytest.raises(ModelError) as failure:
        ChatModel(url, "", "small").answer("Why?", [], [])
    assert message in str(failure.value)
    assert "\n" not in str(failure.value)
