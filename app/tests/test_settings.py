"""Settings as people write them, and refusals that name what to mend."""

import os
from pathlib import Path

import pytest

from app import settings
from app.errors import Refused

WINDOWS_FILE = (
    b"\xef\xbb\xbfAPI_KEY=k-5f2c9e\r\nRATE_LIMIT='25/minute'  # office\r\n"
    b'LOG_FILE="logs/my app.log"\r\nexport LOG_LEVEL=info\r\nCORS_ORIGINS=\r\nDATABASE_URL=\r\nPOOL_SIZE=\r\n'
)


def test_a_file_saved_by_a_windows_editor_is_read_as_it_was_meant(workdir: Path) -> None:
    (workdir / ".env").write_bytes(WINDOWS_FILE)
    loaded = settings.load()
    assert loaded.api_key == ("k-5f2c9e",)
    assert loaded.rate_limit == "25/minute"
    assert loaded.log_file == Path("logs/my app.log")
    assert loaded.log_level == "INFO"
    assert loaded.cors_origins == ()
    assert (loaded.database_url, loaded.pool_size) == ("", 8)


def test_the_environment_wins_over_the_file(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workdir / ".env").write_text("API_KEY=from-file\nLOG_FORMAT=json\nPOSTGRES_USER=extra\n")
    monkeypatch.setenv("API_KEY", " one , two,, ")
    loaded = settings.load()
    assert loaded.api_key == ("one", "two")
    assert loaded.log_format == "json"


def test_empty_turns_off_what_can_be_turned_off(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"API_KEY": "k", "RATE_LIMIT": "", "LOG_FILE": "", "CORS_ORIGINS": ""}.items():
        monkeypatch.setenv(name, value)
    loaded = settings.load()
    assert (loaded.rate_limit, loaded.log_file, loaded.cors_origins) == ("", None, ())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_KEY", ""),
        ("API_KEY", " , "),
        ("RATE_LIMIT", "ten a minute"),
        ("POOL_SIZE", "many"),
        ("POOL_SIZE", "0"),
        ("POOL_TIMEOUT", "-1"),
        ("LOG_LEVEL", "loud"),
        ("LOG_FORMAT", "xml"),
        ("MAX_BODY_BYTES", "0"),
        ("CORS_ORIGINS", "https://app.example.org/path"),
        ("RUN_MIGRATIONS", "perhaps"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_in_one_line(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("API_KEY", "k")
    monkeypatch.setenv(name, value)
    with pytest.raises(Refused, match=name) as refusal:
        settings.load()
    assert "\n" not in str(refusal.value)


def test_a_missing_key_is_named(workdir: Path) -> None:
    with pytest.raises(Refused, match="API_KEY is missing or empty"):
        settings.load()


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("API_KEY = k", "k"),
        ("API_KEY=first\nAPI_KEY=last", "last"),
        ("api_key=k", "k"),
        ("API_KEY=pa$$wo$rd", "pa$$wo$rd"),
        ("API_KEY='pa${HOME}ss'", "pa${HOME}ss"),
        ("API_KEY=pa${never}ss", "pa${never}ss"),
        ('API_KEY="pa${never}ss"', "pa${never}ss"),
        ("API_KEY=pa${never:-di}ss", "padiss"),
        ("POSTGRES_PASSWORD=di\nAPI_KEY=pa${POSTGRES_PASSWORD}ss", "padiss"),
        ("\nLOG_LEVEL=info\rAPI_KEY=k\r", "k"),
        ("API_KEY=a#b # comment", "a#b"),
        ("API_KEY='a #b'\t", "a #b"),
        ("POOL_SIZE\nAPI_KEY=it's", "it's"),
        ('POSTGRES_PASSWORD="two\nlines"\nAPI_KEY=k', "k"),
    ],
)
def test_a_key_arrives_as_it_is_written(workdir: Path, line: str, key: str) -> None:
    (workdir / ".env").write_bytes(f"{line}\n".encode())
    assert settings.load().api_key == (key,)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_a_file_that_is_no_utf8_text_is_refused_in_one_line(workdir: Path, encoding: str) -> None:
    (workdir / ".env").write_bytes("API_KEY=schlüssel\n".encode(encoding))
    with pytest.raises(Refused, match=r"^\.env is not UTF-8 text: [^\n]+\Z"):
        settings.load()


@pytest.mark.parametrize("line", ['API_KEY="canary', "API_KEY='canary'x", "API_KEY: canary", "set API_KEY=canary"])
def test_a_line_that_cannot_be_read_is_named_by_its_number(workdir: Path, line: str) -> None:
    (workdir / ".env").write_text(f"# mine\n\n\n{line}\n")
    with pytest.raises(Refused, match=r"^\.env line 4 is not NAME=value[^\n]+\Z") as refusal:
        settings.load()
    assert "canary" not in str(refusal.value)


def test_a_directory_named_env_is_refused_in_one_line(workdir: Path) -> None:
    (workdir / ".env").mkdir()
    with pytest.raises(Refused, match=r"^\.env is not a file"):
        settings.load()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_named_env_is_refused_without_waiting_for_a_writer(workdir: Path) -> None:
    os.mkfifo(workdir / ".env")
    with pytest.raises(Refused, match=r"^\.env is not a file"):
        settings.load()


def test_a_link_that_leads_nowhere_is_refused_even_with_a_key_in_the_environment(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "k")
    (workdir / ".env").symlink_to("nowhere")
    with pytest.raises(Refused, match=r"^\.env is a link that leads nowhere"):
        settings.load()


def test_a_file_without_end_is_refused_before_it_is_read(workdir: Path) -> None:
    with (workdir / ".env").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(Refused, match=r"^\.env is larger than 1 MiB"):
        settings.load()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_somebody_else_is_refused_in_one_line(workdir: Path) -> None:
    (workdir / ".env").touch(0o000)
    with pytest.raises(Refused, match=r"^\.env cannot be read: Permission denied\Z"):
        settings.load()


def test_a_key_is_in_no_representation_of_the_settings(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "canary-key")
    monkeypatch.setenv("DATABASE_URL", "postgresql://u:canary-password@h/d")
    assert "canary" not in repr(settings.load())
