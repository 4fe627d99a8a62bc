from pathlib import Path

import pytest

from app.tests.rag_bot.documents import write_documents


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_documents(tmp_path)
