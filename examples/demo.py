"""The chatbot and the service together, from the first start to the last stop, in one command.

    python examples/demo.py [PATH ...]

It starts a service of its own on a free port, with an empty database in a temporary directory, and then runs the
commands a user would type: a conversation about the documents in PATH (default: this project's own), a new name and a
star for its session, a look back at it with the evidence behind each answer. In the end one document is withdrawn, and
the past answers that stood on it are listed. Nothing is left behind.
"""

import argparse
import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
from memory import JSON, Memory, StorageError
from retrieval import load

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0  # seconds for the service to start, or to stop
NAME = "Demo: reading the documentation"
QUESTIONS = (
    "How do I start the service?",
    "How do I change the rate limit?",
    "Where are messages stored if DATABASE_URL is not set?",
    "Is a message stored twice if I retry it?",
    "How do I read a long conversation page by page?",
)

Environment = dict[str, str]


class DemoError(Exception):
    """Something did not come out as it should. The text says what, in one line."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", metavar="PATH", nargs="*", type=Path, help="a folder of documents, or a file")
    paths = parser.parse_args().paths
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an end that still runs the clean-up
    try:
        questions = _questions_about(paths) if paths else QUESTIONS
        with tempfile.TemporaryDirectory(prefix="rag-chat-demo-") as home, service(Path(home)) as environment:
            converse(environment, [os.path.relpath(path) for path in paths or own_documents()], questions)
            check(environment, questions)
            withdraw(environment)
    except (DemoError, StorageError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    say("done: the service is stopped and its database removed")
    return 0


def say(progress: str) -> None:
    print(f"\n== {progress}", flush=True)


def own_documents() -> list[Path]:
    return [path for path in (ROOT / "docs", ROOT / "README.md") if path.exists()]


def _questions_about(paths: Sequence[Path]) -> list[str]:
    """One question for each of a few topics, evenly spread over the documents."""
    topics = list(dict.fromkeys(chunk.heading.rpartition(" > ")[2] or chunk.title for chunk in load(paths).chunks))
    if not topics:
        raise DemoError(f"there is no text in {', '.join(map(str, paths))}")
    wanted = len(QUESTIONS)
    return [f"What about {topics[len(topics) * number // wanted]}?" for number in range(wanted)]


@contextlib.contextmanager
def service(home: Path) -> Iterator[Environment]:
    """A service with its database in `home`, for as long as the block runs. Yields the environment to reach it in."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    # Empty means the default, so that settings of the user's own service do not reach this one.
    own = {"API_KEY": secrets.token_urlsafe(), "RATE_LIMIT": "600/minute", "DATA_DIR": str(home / "data")}
    empty = dict.fromkeys(("DATABASE_URL", "RATE_LIMIT_STORAGE_URI", "LOG_FILE"), "")
    command = [sys.executable, "-m", "app", "serve", "--port", port]
    say(f"starting a service: python {shlex.join(command[1:])}")
    with (home / "console.log").open("w") as console:
        server = subprocess.Popen(  # noqa: S603 - the command is our own
            command,
            cwd=home,  # where there is no .env
            env={**os.environ, **own, **empty, "PYTHONPATH": str(ROOT)},
            stdout=console,
            stderr=console,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(server, url, home / "console.log")
        yield {**os.environ, "RAG_CHAT_URL": url, "API_KEY": own["API_KEY"], "OPENAI_MODEL": ""}
    finally:
        say("stopping the service")
        _stop(server, home / "data")


def _wait_until_ready(server: "subprocess.Popen[bytes]", url: str, console: Path) -> None:
    started = time.monotonic()
    while time.monotonic() - started < PATIENCE and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").is_success:
                say(f"ready at {url} after {time.monotonic() - started:.1f} s")
                return
        time.sleep(0.1)
    raise DemoError(f"the service did not become ready; the end of what it wrote:\n{console.read_text()[-2000:]}")


def _stop(server: "subprocess.Popen[bytes]", data_dir: Path) -> None:
    server.terminate()
    try:
        server.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    # PostgreSQL ends a moment after its last user, and its files may be removed only then.
    deadline = time.monotonic() + PATIENCE
    while list(data_dir.glob("**/postmaster.pid")) and time.monotonic() < deadline:
        time.sleep(0.1)


def converse(environment: Environment, paths: Sequence[str], questions: Sequence[str]) -> None:
    first, *others, last = questions
    say("a conversation")
    bot(environment, "ask", *paths, first)
    for question in others:
        bot(environment, "ask", *paths, question, "--session", "last")
    say("its session gets a name and a star")
    bot(environment, "rename", "last", NAME)
    bot(environment, "favorite", "last")
    say("the conversation goes on, in another process")
    bot(environment, "chat", *paths, "--session", "last", typed=f"{last}\n")
    say("what the service remembers, with the evidence behind each answer")
    bot(environment, "sessions", "--favorites")
    bot(environment, "history", "last", "--evidence")


def bot(environment: Environment, *arguments: str, typed: str = "") -> None:
    print(f"\n$ python examples/rag_bot.py {shlex.join(arguments)}", flush=True)
    done = subprocess.run(  # noqa: S603 - the command is our own
        [sys.executable, str(ROOT / "examples" / "rag_bot.py"), *arguments],
        env=environment,
        input=typed,
        text=True,
        start_new_session=True,  # Ctrl-C is for the demo, which ends the command itself
        check=False,
    )
    if done.returncode:
        raise DemoError(f"`{arguments[0]}` ended with status {done.returncode}")


def check(environment: Environment, questions: Sequence[str]) -> None:
    """What was printed came out of the service; this asks whether it was all that went in."""
    with Memory(environment["RAG_CHAT_URL"], environment["API_KEY"], announce=say) as memory:
        sessions = list(memory.sessions(is_favorite="true"))
        messages = [message for session in sessions for message in memory.messages(session["id"])]
    if [session["name"] for session in sessions] != [NAME]:
        raise DemoError("the session has not kept its name and its star")
    if [message["content"] for message in messages[::2]] != list(questions):
        raise DemoError("the questions are not stored as they were asked")
    answers = messages[1::2]
    if len(answers) != len(questions) or not all(answer["context"]["documents"] for answer in answers):
        raise DemoError("an answer or its evidence is missing")
    chunks = sum(len(answer["context"]["documents"]) for answer in answers)
    say(f"checked: {len(questions)} questions, each with its answer, on {chunks} pieces of evidence")


def withdraw(environment: Environment) -> None:
    """Withdraws a document that some answers cite and not all of them used, and looks at what became of them."""
    with Memory(environment["RAG_CHAT_URL"], environment["API_KEY"], announce=say) as memory:
        (session,) = memory.sessions(is_favorite="true")
        before = list(memory.messages(session["id"]))
        document_id = _worth_withdrawing(before[1::2])
        say("a document turns out to be wrong: it is withdrawn, and the past answers that stood on it are found")
        bot(environment, "withdraw", document_id, "--reason", "it describes an older release")
        bot(environment, "uses", document_id)
        listed = list(memory.answers_from(document_id))
        after = list(memory.messages(session["id"]))
    withdrawn = [message for message in after if message["evidence_status"] == "withdrawn"]
    if [message["id"] for message in reversed(listed)] != [message["id"] for message in withdrawn]:
        raise DemoError("the answers that are listed are not those that show the withdrawal")
    judged = ("evidence_status", "evidence_documents")
    if [_without(message, judged) for message in after] != [_without(message, judged) for message in before]:
        raise DemoError("the withdrawal has changed a message")
    say("one of them as the service answers it now; the message itself is as it was")
    print(json.dumps({**_without(withdrawn[0], ("context",)), "context": "…"}, indent=2, ensure_ascii=False))
    say(f"checked: {len(withdrawn)} of {len(before) // 2} answers stood on it, and show so")


def _worth_withdrawing(answers: Sequence[JSON]) -> str:
    documents = [{(one["document_id"], one["cited"]) for one in answer["context"]["documents"]} for answer in answers]
    used: Counter[str] = Counter(name for each in documents for name in dict(each))
    cited: Counter[str] = Counter(name for each in documents for name, is_cited in each if is_cited)
    return max(cited, key=lambda name: (used[name] < len(answers), cited[name], used[name]))


def _without(message: JSON, fields: Sequence[str]) -> JSON:
    return {name: value for name, value in message.items() if name not in fields}


if __name__ == "__main__":
    sys.exit(main())
