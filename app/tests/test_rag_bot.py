"""examples/: the chatbot that uses the service as its memory."""

import io
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import pytest

from app.tests.harness import DEADLINE
from app.tests.rag_bot import EXAMPLES  # before the next, which it makes importable

# isort: split
import demo
import rag_bot
from memory import Memory

from app.tests.rag_bot.answering import Reply, answering, completion
from app.tests.rag_bot.documents import write_documents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_documents(tmp_path)


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
        timeout=DEADLINE,
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


def test_every_answer_that_stood_on_a_withdrawn_document_is_found_and_shows_so(bot: Bot, folder: Path) -> None:
    (folder / "tides.md").write_text("# Tides\nThe tide is highest at noon.\n# Ebb\nAn ebb follows each tide.")
    first = bot("ask", ".", "When is the tide highest?")[0].split()[-1]
    bot("ask", ".", "What about Windows?", "--session", first)
    second = bot("ask", ".", "What follows a tide?")[0].split()[-1]

    withdrawn, _ = bot("withdraw", "manual/tides.md", "--reason", "noon is wrong")
    assert withdrawn == "manual/tides.md is withdrawn: noon is wrong\n"
    used, _ = bot("uses", "manual/tides.md")
    assert re.findall(r"^(\S+) #(\d), .*, its evidence is (\w+)$", used, re.MULTILINE) == [
        (second, "2", "withdrawn"),
        (first, "2", "withdrawn"),
    ]
    assert "\n    When is the tide highest?\n    chunk " in used
    assert re.search(r"^    chunk [0-9a-f]{12}, rank 1, score \d\.\d+: in_prompt, cited$", used, re.MULTILINE)
    assert bot("history", first)[0].count("\n! withdrawn: manual/tides.md\n") == 1

    assert bot("withdraw", "manual/tides.md", "--undo")[0] == "manual/tides.md is current\n"
    assert "!" not in bot("history", first)[0]


def test_a_document_that_no_answer_stood_on_is_told_in_one_line(folder: Path, environment: dict[str, str]) -> None:
    done = run("uses", "manual/unread.md", cwd=folder, **environment)
    assert_one_line(done, "no answer stood on this document (404)")


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
        rest, errors = chat.communicate(timeout=DEADLINE)
    assert (chat.returncode, rest) == (0, "\n")
    assert "Traceback" not in errors
