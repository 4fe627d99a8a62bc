"""The demo: a conversation, and what became of it when one of its sources was withdrawn."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import demo
from retrieval import Library, load

from app.tests.process import DEADLINE
from app.tests.rag_bot import EXAMPLES


def test_the_demo_shows_the_stored_history_and_leaves_nothing_behind(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    place.mkdir()
    done = run_demo(folder, place)
    assert done.returncode == 0, done.stderr
    history, _, withdrawal = done.stdout.partition("history last --evidence")[2].partition(
        "rag_bot.py withdraw manual/"
    )
    assert len(re.findall(r"^#\d+ user, ", history, re.MULTILINE)) == 5
    assert len(re.findall(r"^ +1 +\d+\.\d+  yes    yes    [0-9a-f]{12}  manual/", history, re.MULTILINE)) == 5
    assert "checked: 5 questions, each with its answer" in history
    assert not list(place.iterdir())
    shown = json.loads(withdrawal[withdrawal.index("\n{") : withdrawal.index("\n}") + 2])
    (document_id,) = shown["evidence_documents"]
    assert shown["evidence_status"] == "withdrawn"
    assert f"{document_id} is withdrawn: " in withdrawal
    listed = re.findall(r"^\S+ #\d+, .*, its evidence is withdrawn$", withdrawal, re.MULTILINE)
    assert listed
    assert f"answers that stood on {document_id}: {len(listed)}\n" in withdrawal
    assert f"checked: {len(listed)} of 5 answers stood on it, and show so" in withdrawal


def test_the_demo_finds_evidence_for_its_questions_in_the_documents_of_this_project() -> None:
    library = Library(load(demo.own_documents()).chunks)
    assert [question for question in demo.QUESTIONS if not library.search(question, limit=1)] == []


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
        timeout=DEADLINE,
        check=False,
    )
