"""examples/: the chatbot that uses the service as its memory, and the demo that shows both."""

import contextlib
import email.utils
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
sys.path.append(str(EXAMPLES))  # they are programs, not a package: each finds its neighbours beside it

import demo  # noqa: E402 - found through the line above
import rag_bot  # noqa: E402
from answers import NOTHING_FOUND, ChatModel, ModelError, Turn, evidence, extract  # noqa: E402
from memory import Memory, StorageError  # noqa: E402
from retrieval import LONGEST_PARAGRAPH, Chunk, Hit, Library, load  # noqa: E402

GUIDE = """---
draft: true
---
# The Guide

Welcome to the guide.

## Installing

Run the installer:

```bash
# not a heading

./install --prefix /opt
```

### On Windows

Use the **setup** program.

Cleaning up
-----------

Sessions are kept for thirty days. A session that is a favorite is kept for ever.
"""

PAGE = """<!doctype html><html><head><title>Manual</title><style>p { color: red }</style></head>
<body><nav><a href="/">Home</a></nav><h1>Gears &amp; Wheels</h1><p>Gears turn
   <em>slow</em>ly.<br>Wheels do not.<script>alert("never shown")</script>
<h2>Oil</h2><ul><li>use oil</li><li>use <code>RATE_LIMIT</code></li></ul><pre>
a = 1
  b = 2
</pre><table><tr><th>Part</th><td>Price</td></tr></table><p>The last words"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "manual"
    folder.mkdir()
    (folder / "guide.md").write_text(GUIDE)
    (folder / "page.html").write_text(PAGE)
    return folder


def read(folder: Path, name: str, source: str) -> list[Chunk]:
    (folder / name).write_text(source, encoding="utf-8")
    return load([folder / name]).chunks


# Splitting


def test_markdown_is_split_at_its_headings(folder: Path) -> None:
    chunks = load([folder / "guide.md"]).chunks
    assert [(chunk.heading, chunk.paragraphs) for chunk in chunks] == [
        ("", ("Welcome to the guide.",)),
        ("Installing", ("Run the installer:", "```bash\n# not a heading\n\n./install --prefix /opt\n```")),
        ("Installing > On Windows", ("Use the **setup** program.",)),
        ("Cleaning up", ("Sessions are kept for thirty days. A session that is a favorite is kept for ever.",)),
    ]
    assert {(chunk.document_id, chunk.title) for chunk in chunks} == {("guide.md", "The Guide")}


def test_html_is_read_as_a_reader_sees_it(folder: Path) -> None:
    chunks = load([folder / "page.html"]).chunks
    assert [(chunk.title, chunk.heading, chunk.paragraphs) for chunk in chunks] == [
        ("Manual", "Gears & Wheels", ("Gears turn slowly. Wheels do not.",)),
        (
            "Manual",
            "Gears & Wheels > Oil",
            ("- use oil", "- use RATE_LIMIT", "```\na = 1\n  b = 2\n```", "Part Price", "The last words"),
        ),
    ]


def test_paragraphs_are_packed_into_chunks_of_about_600_characters(tmp_path: Path) -> None:
    paragraphs = [f"Paragraph {number} " + "word " * 40 for number in range(20)]
    chunks = read(tmp_path, "long.txt", "\n\n".join(paragraphs))
    assert [paragraph for chunk in chunks for paragraph in chunk.paragraphs] == [text.strip() for text in paragraphs]
    assert {len(chunk.paragraphs) for chunk in chunks} == {2}


@pytest.mark.parametrize(
    ("paragraph", "piece"),
    [
        (" ".join(f"One sentence follows {number}." for number in range(400)), r"One [^\0]*\."),
        ("\n".join(f"- item {number} of a list" for number in range(400)), r"- item [^\0]*of a list"),
        ("".join(f"日本語の文章{number}。" for number in range(1_000)), "日[^\0]*。"),
        (" ".join(f"word{number}" for number in range(2_000)), r"word\d[^\0]*\d"),
        ("".join(f"{number:05}" for number in range(2_000)), r"\d+"),
    ],
    ids=["sentences", "list", "no spaces", "no sentences", "no words"],
)
def test_a_huge_paragraph_is_cut_where_it_hurts_least(tmp_path: Path, paragraph: str, piece: str) -> None:
    pieces = [part for chunk in read(tmp_path, "huge.md", paragraph) for part in chunk.paragraphs]
    assert "".join("".join(pieces).split()) == "".join(paragraph.split())
    assert max(map(len, pieces)) <= LONGEST_PARAGRAPH
    assert all(re.fullmatch(piece, part) for part in pieces)


def test_what_is_no_text_is_left_out_and_said(folder: Path) -> None:
    (folder / "empty.md").write_bytes(b"")
    (folder / "latin.txt").write_bytes("Küche".encode("latin-1"))
    (folder / "binary.txt").write_bytes(b"text\0text")
    (folder / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\0")
    (folder / ".git").mkdir()
    (folder / ".git" / "description.txt").write_text("Hidden")
    corpus = load([folder])
    assert {chunk.document_id for chunk in corpus.chunks} == {"manual/guide.md", "manual/page.html"}
    assert corpus.skipped == ["manual/binary.txt: a binary file", "manual/latin.txt: not UTF-8 text"]


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(folder: Path) -> None:
    plain = load([folder / "guide.md"])
    (folder / "guide.md").write_bytes(b"\xef\xbb\xbf" + GUIDE.replace("\n", "\r\n").encode())
    assert load([folder / "guide.md"]) == plain


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_file_name_that_is_not_utf8_makes_an_id_that_can_be_stored(folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.txt")).write_text("Coffee")
    assert "manual/caf�.txt" in {chunk.document_id for chunk in load([folder]).chunks}


def test_chunk_ids_survive_an_edit_elsewhere_in_the_document(folder: Path) -> None:
    before = {chunk.chunk_id for chunk in load([folder]).chunks}
    (folder / "guide.md").write_text(GUIDE.replace("Welcome to the guide.", "Hello.\n\n## New\n\nA new section."))
    after = {chunk.chunk_id for chunk in load([folder]).chunks}
    assert len(before) == 6
    assert len(before - after) == 1
    assert len(after - before) == 2


def test_equal_passages_of_two_documents_are_two_chunks_and_of_one_document_one(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("The same words.")
    (tmp_path / "two.md").write_text("# A\nThe same words.\n# A\nThe same words.")
    ids = [(chunk.document_id.rpartition("/")[2], chunk.chunk_id) for chunk in load([tmp_path]).chunks]
    assert [document_id for document_id, _ in ids] == ["one.txt", "two.md"]
    assert len({chunk_id for _, chunk_id in ids}) == 2


# Ranking


def search(folder: Path, question: str) -> list[Hit]:
    return Library(load([folder]).chunks).search(question, limit=8)


@pytest.mark.parametrize(
    ("question", "heading"),
    [
        ("How long is a session kept?", "Cleaning up"),
        ("what is a FAVORITES session", "Cleaning up"),
        ("Do I need oil?", "Gears & Wheels > Oil"),
        ("rate limit", "Gears & Wheels > Oil"),
        ("setup on windows", "Installing > On Windows"),
    ],
)
def test_the_chunk_that_answers_is_ranked_first(folder: Path, question: str, heading: str) -> None:
    hits = search(folder, question)
    assert hits[0].chunk.heading == heading
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score > 0 for hit in hits)


@pytest.mark.parametrize("question", ["zeppelin", "what is the", "", "?!"])
def test_a_question_without_a_known_word_finds_nothing(folder: Path, question: str) -> None:
    assert search(folder, question) == []


@pytest.mark.parametrize(
    ("source", "question"),
    [
        ("Привет, мир", "ПРИВЕТ"),
        ("Cafe\u0301 au lait", "caf\u00e9"),
        ("東京は日本の首都です", "首都はどこ"),
        ("Der Fluß ist tief", "fluß"),
    ],
)
def test_other_scripts_are_found(folder: Path, source: str, question: str) -> None:
    (folder / "other.txt").write_text(source, encoding="utf-8")
    assert search(folder, question)[0].chunk.document_id == "manual/other.txt"


@pytest.mark.parametrize("source", ["", "?!", "the and of"])
def test_a_corpus_without_words_is_searched_in_vain(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty.txt").write_text(source)
    assert search(tmp_path, "anything") == []


# Answering


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


# A real HTTP server that stands for whatever answers at the other end.


class Received(NamedTuple):
    method: str
    path: str
    headers: Message  # looked up in any case
    body: Any


class Reply(NamedTuple):
    status: int
    headers: Mapping[str, str] = MappingProxyType({})
    body: bytes = b"{}"


LOST = Reply(0)  # the connection ends without an answer


@contextlib.contextmanager
def answering(*replies: Reply) -> Iterator[tuple[str, list[Received]]]:
    """A server that gives these replies in turn, the last one for ever. Yields its address and what it received."""
    received: list[Received] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            received.append(Received(self.command, self.path, self.headers, json.loads(body or b"null")))
            reply = replies[min(len(received), len(replies)) - 1]
            if reply is LOST:
                return
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815 - the names the base class looks for

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


PROBLEM = {"status": 429, "code": "rate_limited", "detail": "over 10 per 1 minute (RATE_LIMIT)"}
STORED = Reply(201, body=b'{"id": "m1"}')


def busy(status: int, retry_after: str | None) -> Reply:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return Reply(status, headers, json.dumps({**PROBLEM, "status": status}).encode())


def in_two_seconds() -> str:
    return email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)


# The memory


@pytest.mark.parametrize(
    ("first", "shortest_wait"),
    [
        (lambda: busy(429, "1"), 1.0),
        (lambda: busy(503, in_two_seconds()), 0.9),  # a date has whole seconds
        (lambda: busy(503, "soon"), 1.0),
        (lambda: LOST, 1.0),
    ],
    ids=["seconds", "date", "neither", "no answer"],
)
def test_a_message_is_sent_again_as_it_was_after_the_time_asked_for(
    first: Callable[[], Reply], shortest_wait: float
) -> None:
    said: list[str] = []
    with answering(first(), STORED) as (url, received), Memory(url, "key", said.append) as memory:
        started = time.monotonic()
        assert memory.append("s1", "user", "Hello?") == {"id": "m1"}
        waited = time.monotonic() - started
    assert shortest_wait <= waited < shortest_wait + 2
    assert [request.path for request in received] == ["/chat/sessions/s1/messages"] * 2
    assert received[0].body == received[1].body
    assert received[0].body["content"] == "Hello?"
    assert str(UUID(received[0].body["id"])) == received[0].body["id"]
    assert len(said) == 1
    assert "trying again in" in said[0]
    assert "the same id" in said[0]


def test_every_message_has_an_id_of_its_own() -> None:
    with answering(STORED) as (url, received), Memory(url, "key", print) as memory:
        memory.append("s1", "user", "Hello?")
        memory.append("s1", "user", "Hello?")
    assert received[0].body["id"] != received[1].body["id"]


@pytest.mark.parametrize(
    ("reply", "attempts"), [(busy(429, "0"), 6), (busy(503, "3600"), 1)], ids=["stays busy", "asks for an hour"]
)
def test_a_service_that_cannot_be_waited_for_is_given_up(reply: Reply, attempts: int) -> None:
    with (
        answering(reply) as (url, received),
        Memory(url, "key", print) as memory,
        pytest.raises(StorageError, match=rf"{reply.status} rate_limited: over 10 per 1 minute \(RATE_LIMIT\)"),
    ):
        memory.append("s1", "user", "Hello?")
    assert len(received) == attempts
    assert len({request.body["id"] for request in received}) == 1


# The chat model


def completion(text: str | None) -> Reply:
    return Reply(200, body=json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode())


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


# The command line, as a user runs it


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-W", "error", str(EXAMPLES / "rag_bot.py"), *map(str, arguments)]


def run(*arguments: str | Path, cwd: Path, typed: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    unset = {"API_KEY", "RAG_CHAT_URL", "OPENAI_MODEL", "OPENAI_BASE_URL", "OPENAI_API_KEY"}
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        env={**inherited, "PYTHONUTF8": "1", **environment},
        input=typed,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )


def assert_one_line(done: "subprocess.CompletedProcess[str]", message: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not re.fullmatch(r"\d+ documents in \d+ chunks", line)]
    assert len(lines) == 1
    assert lines[0].startswith("rag_bot: ")
    assert message in lines[0]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(401, {"WWW-Authenticate": "Bearer"}, b'{"code": "unauthorized"}'), "(401): set API_KEY"),
        (Reply(404, body=b'{"code": "not_found"}'), "there is no such session (404)"),
        (Reply(403, body=b'{"code": "example_key", "detail": "set API_KEY"}'), "403 example_key: set API_KEY"),
        (Reply(404, body=b"<html>"), "404 Not Found"),
        (Reply(200, body=b"<html>"), "is not RAG Chat Storage: set RAG_CHAT_URL"),
    ],
)
def test_a_refusal_is_told_in_one_line(tmp_path: Path, reply: Reply, message: str) -> None:
    with answering(reply) as (url, received):
        done = run("history", str(uuid4()), cwd=tmp_path, API_KEY="key", RAG_CHAT_URL=url)
    assert_one_line(done, message)
    assert received[0].headers["X-API-Key"] == "key"


def test_a_service_that_is_not_there_is_told_with_how_to_start_it(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    done = run("ask", folder, "Why?", cwd=folder, API_KEY="key", RAG_CHAT_URL=url)
    assert_one_line(done, f"cannot reach {url}")
    assert "python -m app serve" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["sessions"], {}, "API_KEY is not set"),
        (["sessions"], {"API_KEY": " , "}, "API_KEY is not set"),
        (["sessions"], {"API_KEY": "key", "RAG_CHAT_URL": "localhost:1"}, "cannot use localhost:1"),
        (["ask", "nowhere", "Why?"], {"API_KEY": "key"}, "there is no nowhere: give a folder"),
        (["ask", ".", "Why?"], {"API_KEY": "key"}, "no text in .: give a folder"),
        (["ask", ".", " "], {"API_KEY": "key"}, "the question is empty"),
        (["history", "first"], {"API_KEY": "key"}, "first is not a session id"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    tmp_path: Path, arguments: list[str], environment: dict[str, str], message: str
) -> None:
    assert_one_line(run(*arguments, cwd=tmp_path, **environment), message)


# The whole thing, against the service itself


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running service with the embedded database: the variables that lead there."""
    with demo.service(tmp_path_factory.mktemp("service")) as environment:
        yield {name: environment[name] for name in ("RAG_CHAT_URL", "API_KEY")}


@pytest.fixture
def bot(
    folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> "Bot":
    """The program without a process of its own, which would take a second to start."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("OPENAI_MODEL", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str, typed: str = "") -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["rag_bot.py", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert rag_bot.main() == 0
        return capsys.readouterr()

    return call


class Bot(Protocol):
    def __call__(self, *arguments: str, typed: str = "") -> tuple[str, str]: ...


def test_a_conversation_is_stored_resumed_and_shown_with_its_evidence(bot: Bot) -> None:
    asked, said = bot("ask", ".", "How long are sessions kept?")
    assert asked.startswith("Sessions are kept for thirty days.")
    assert said == "2 documents in 6 chunks\n"
    session_id = asked.split()[-1]

    resumed, _ = bot("chat", ".", "--session", session_id, typed="\nWhat about Windows?\n")
    assert "How long are sessions kept?" in resumed
    assert "> What about Windows?\nUse the **setup** program. [1]\n    [1] manual/guide.md: Installing > " in resumed
    assert resumed.endswith(f"--session {session_id}\n")

    history, _ = bot("history", "last", "--evidence")
    assert re.findall(r"#(\d) (\w+)", history) == [
        ("1", "user"),
        ("2", "assistant"),
        ("3", "user"),
        ("4", "assistant"),
    ]
    assert re.search(r" 1 +\d\.\d+  yes    yes    [0-9a-f]{12}  manual/guide\.md: Cleaning up\n", history)


def test_a_session_is_renamed_starred_listed_and_deleted(bot: Bot, folder: Path, environment: dict[str, str]) -> None:
    session_id = bot("ask", ".", "How long are sessions kept?")[0].split()[-1]
    assert "Retention" in bot("rename", session_id, "Retention")[0]
    assert f"{session_id} * " in bot("favorite", session_id)[0]
    assert session_id in bot("sessions", "--favorites", "--name", "RETENT")[0]
    assert session_id not in bot("sessions", "--name", "other")[0]
    assert f"{session_id}   " in bot("favorite", session_id, "--off")[0]
    assert session_id not in bot("sessions", "--favorites")[0]
    assert session_id in bot("sessions")[0]
    assert session_id in bot("delete", session_id)[0]
    assert_one_line(run("history", session_id, cwd=folder, **environment), "there is no such session (404)")


def test_a_chat_model_hears_what_was_said_before(bot: Bot, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(Reply(500), completion("Thirty days [1].")) as (url, received):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        monkeypatch.setenv("OPENAI_MODEL", "small")
        shown, said = bot("chat", ".", typed="Why?\nHow long are sessions kept?\nReally?\n")
    assert re.search("^rag_bot: .* answered 500$", said, re.MULTILINE)  # and the chat went on
    assert shown.count("Thirty days [1].\n    [1] manual/guide.md: Cleaning up\n") == 1
    assert [message["content"] for message in received[2].body["messages"][1:]] == [
        "Why?",
        "How long are sessions kept?",
        "Thirty days [1].",
        "Really?",
    ]


def test_a_long_history_is_read_to_its_end(environment: dict[str, str]) -> None:
    with Memory(environment["RAG_CHAT_URL"], environment["API_KEY"], print) as memory:
        session_id = memory.create_session("Long")["id"]
        sent = [memory.append(session_id, "user", str(number))["id"] for number in range(205)]
        assert [message["id"] for message in memory.messages(session_id)] == sent
        assert [message["content"] for message in memory.latest(session_id, 3)] == ["202", "203", "204"]


def test_messages_of_other_programs_are_shown(bot: Bot, environment: dict[str, str]) -> None:
    contexts: list[Any] = [None, 7, "text", [1], {"documents": None}, {"documents": [1, {"rank": None}]}]
    with Memory(environment["RAG_CHAT_URL"], environment["API_KEY"], print) as memory:
        session_id = memory.create_session("Foreign")["id"]
        for context in contexts:
            memory.append(session_id, "tool", "Ünïcode", context)
    assert bot("history", session_id, "--evidence")[0].count("Ünïcode") == len(contexts)


def test_the_first_key_of_a_dotenv_file_is_used(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / ".env").write_text(f"\ufeffAPI_KEY={environment['API_KEY']},old-key\r\n", encoding="utf-8")
    done = run("sessions", cwd=tmp_path, RAG_CHAT_URL=environment["RAG_CHAT_URL"])
    assert (done.returncode, done.stderr) == (0, "")


def test_bytes_that_are_no_text_are_asked_without_them(bot: Bot) -> None:
    bot("ask", ".", os.fsdecode(b"\xff oil?"))
    assert "? oil?" in bot("history", "last")[0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send")
def test_ctrl_c_ends_a_chat_cleanly(folder: Path, environment: dict[str, str]) -> None:
    with subprocess.Popen(
        command("chat", folder),
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as chat:
        assert chat.stdout is not None
        assert chat.stdout.readline() == "Ask away; Ctrl-D ends the chat.\n"
        assert chat.stdout.read(2) == "> "
        chat.send_signal(signal.SIGINT)
        rest, errors = chat.communicate(timeout=30)
    assert (chat.returncode, rest) == (0, "\n")
    assert "Traceback" not in errors


def test_the_demo_shows_the_stored_history_and_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    done = run_demo(folder, place)
    assert done.returncode == 0, done.stderr
    history = done.stdout.rpartition("history last --evidence")[2]
    assert len(re.findall(r"^#\d+ user, ", history, re.MULTILINE)) == 5
    assert len(re.findall(r"^ +1 +\d+\.\d+  yes    yes    [0-9a-f]{12}  manual/", history, re.MULTILINE)) == 5
    assert "checked: 5 questions, each with its answer" in history
    assert not list(place.iterdir())


def test_the_demo_fails_where_there_is_nothing_to_read(tmp_path: Path) -> None:
    done = run_demo(tmp_path, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("demo: there is no text in ")


def run_demo(documents: Path, place: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / "demo.py"), str(documents)],
        env={**os.environ, "TMPDIR": str(place)},
        capture_output=True,
        encoding="utf-8",
        timeout=180,
        check=False,
    )
