"""The container files: what they promise, read off them; and, where a Docker engine answers, the promise kept."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app.server import DRAIN
from app.tests.process import ROOT, free_port

yaml = pytest.importorskip("ruamel.yaml")

COMPOSE = yaml.YAML(typ="safe").load(ROOT / "docker-compose.yml")
APP, DB, PGADMIN = (COMPOSE["services"][name] for name in ("app", "db", "pgadmin"))
PGADMIN_FILES = ROOT / "deploy" / "pgadmin"
PACKAGE_INDEX = re.compile(r"pypi|pythonhosted|index-url|trusted-host|# syntax", re.IGNORECASE)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Each instruction of a Dockerfile with its arguments."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def default(value: str) -> str:
    """What compose makes of `${NAME:-default}` when NAME is not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


IMAGE = instructions(ROOT / "Dockerfile")
FINAL_STAGE = dict(IMAGE[max(at for at, (name, _) in enumerate(IMAGE) if name == "FROM") :])


def test_only_this_machine_reaches_the_published_ports() -> None:
    assert APP["ports"] == ["${BIND_ADDRESS:-127.0.0.1}:${APP_PORT:-8000}:8000"]
    assert PGADMIN["ports"] == ["${BIND_ADDRESS:-127.0.0.1}:${PGADMIN_PORT:-5050}:5050"]


def test_the_database_publishes_no_port() -> None:
    assert "ports" not in DB


def test_data_lies_in_named_volumes_where_the_images_keep_it() -> None:
    assert DB["image"] == "postgres:17"
    assert DB["volumes"] == ["db-data:/var/lib/postgresql/data"]
    assert PGADMIN["volumes"] == ["pgadmin-data:/var/lib/pgadmin"]
    assert set(COMPOSE["volumes"]) == {"app-log", "db-data", "pgadmin-data"}


def test_the_app_can_write_nothing_but_its_log_and_tmp() -> None:
    assert APP["read_only"] is True
    assert [mount.partition(":")[0] for mount in APP["tmpfs"]] == ["/tmp"]  # noqa: S108 - a path in the container
    assert APP["volumes"] == ["app-log:/var/log/rag-chat-storage"]
    assert APP["environment"]["LOG_FILE"] == "/var/log/rag-chat-storage/app.log"
    assert f"LOG_FILE={APP['environment']['LOG_FILE']}" in FINAL_STAGE["ENV"]


def test_the_app_has_no_privileges() -> None:
    assert APP["cap_drop"] == ["ALL"]
    assert APP["security_opt"] == ["no-new-privileges:true"]
    assert FINAL_STAGE["USER"] == APP["user"]
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", FINAL_STAGE["USER"])


def test_the_app_waits_for_a_database_that_answers_over_tcp() -> None:
    assert APP["depends_on"] == {"db": {"condition": "service_healthy"}}
    assert "pg_isready" in DB["healthcheck"]["test"][1]
    assert "-h 127.0.0.1" in DB["healthcheck"]["test"][1]


def test_the_app_connects_as_the_user_that_the_database_is_made_for() -> None:
    url = urlsplit(default(APP["environment"]["DATABASE_URL"]))
    made = {name: default(value) for name, value in DB["environment"].items()}
    assert (url.scheme, url.hostname, url.port) == ("postgresql+asyncpg", "db", 5432)
    assert (url.username, url.password) == (made["POSTGRES_USER"], made["POSTGRES_PASSWORD"])
    assert url.path == f"/{made['POSTGRES_DB']}"


def test_requests_in_flight_are_given_their_time_before_the_container_is_killed() -> None:
    assert int(APP["stop_grace_period"].removesuffix("s")) > DRAIN


def test_the_image_serves_and_says_whether_it_is_healthy() -> None:
    assert json.loads(FINAL_STAGE["CMD"]) == ["python", "-m", "app", "serve", "--host", "0.0.0.0", "--port", "8000"]  # noqa: S104
    assert FINAL_STAGE["EXPOSE"] == "8000"
    assert "/readyz" in FINAL_STAGE["HEALTHCHECK"]


def test_the_image_holds_nothing_but_the_application() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert [rule for rule in rules if rule.startswith("!")] == ["!app", "!requirements-prod.txt"]
    assert "app/tests" in rules
    assert [arguments for name, arguments in IMAGE if name in {"ADD", "COPY"} and "--from" not in arguments] == [
        "requirements-prod.txt ./",
        "app ./app",
    ]


@pytest.mark.parametrize("name", ["Dockerfile", "docker-compose.yml", ".dockerignore", "deploy/pgadmin/Dockerfile"])
def test_no_container_file_names_a_package_index(name: str) -> None:
    assert not PACKAGE_INDEX.search((ROOT / name).read_text())


def test_compose_and_the_app_read_the_example_settings_alike() -> None:
    values = [line.partition("=")[2] for line in (ROOT / ".env.example").read_text().splitlines() if line[:1] != "#"]
    assert not [value for value in values if "$" in value], "compose expands a $ that is not in single quotes"


def test_pgadmin_lists_the_database_that_compose_makes() -> None:
    (server,) = json.loads((PGADMIN_FILES / "servers.json").read_text())["Servers"].values()
    assert server["Name"] == "RAG Chat Storage"
    assert server["Host"] in COMPOSE["services"]
    assert server["Port"] == 5432
    assert server["Username"] == default(DB["environment"]["POSTGRES_USER"])
    assert server["MaintenanceDB"] == default(DB["environment"]["POSTGRES_DB"])
    assert server["ConnectionParameters"]["passfile"] == "/.pgpass"


def test_pgadmin_has_the_documented_account_on_a_pinned_release() -> None:
    assert default(PGADMIN["environment"]["PGADMIN_DEFAULT_EMAIL"]) == "admin@admin.com"
    assert default(PGADMIN["environment"]["PGADMIN_DEFAULT_PASSWORD"]) == "admin"
    image = dict(instructions(PGADMIN_FILES / "Dockerfile"))
    assert re.fullmatch(r"dpage/pgadmin4:\d+\.\d+", image["FROM"])
    assert "PGADMIN_LISTEN_PORT=5050" in image["ENV"]


@pytest.mark.skipif(shutil.which("sh") is None, reason="no sh on this machine")
def test_pgadmin_needs_no_password_whatever_the_password_is(tmp_path: Path) -> None:
    script = re.sub(r"(?<=[=\s])/(?=var/lib/|pgadmin4/|tmp/)", f"{tmp_path}/", (PGADMIN_FILES / "start.sh").read_text())
    (tmp_path / "tmp").mkdir()
    (tmp_path / "pgadmin4").mkdir()
    shutil.copy(PGADMIN_FILES / "servers.json", tmp_path / "pgadmin4")
    chosen = {"POSTGRES_USER": 'u"s|e&r\\1', "POSTGRES_PASSWORD": "p:w\\$d|&", "POSTGRES_DB": 'my "db" & more'}
    environment = {"PATH": os.environ["PATH"], "PGADMIN_DEFAULT_EMAIL": "admin@admin.com", **chosen}
    subprocess.run(["sh", "-c", script, "start.sh", "true"], env=environment, check=True)

    (passfile,) = tmp_path.rglob(".pgpass")
    assert passfile.parent.name == "admin_admin.com"
    assert passfile.stat().st_mode & 0o777 == 0o600
    assert passfile.read_text() == 'db:5432:*:u"s|e&r\\\\1:p\\:w\\\\$d|&\n'
    (server,) = json.loads((tmp_path / "tmp" / "servers.json").read_text())["Servers"].values()
    assert (server["Username"], server["MaintenanceDB"]) == (chosen["POSTGRES_USER"], chosen["POSTGRES_DB"])


@pytest.mark.parametrize(
    "command",
    [
        ("hadolint", "Dockerfile", "deploy/pgadmin/Dockerfile"),
        ("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"),
    ],
    ids=lambda command: command[0],
)
def test_a_linter_finds_nothing(command: tuple[str, ...]) -> None:
    program = shutil.which(command[0], path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    subprocess.run([program, *command[1:]], cwd=ROOT, check=True)


class Project:
    """`docker compose` in a copy of the files that it needs, under a name, a port and settings of its own."""

    # Everything in which the reading of a .env can go wrong: what expands, quotes, and what looks like a comment.
    key = 'k$1${x}"#y'

    def __init__(self, directory: Path) -> None:
        for name in ("Dockerfile", ".dockerignore", "docker-compose.yml", "requirements-prod.txt"):
            shutil.copy(ROOT / name, directory)
        for name in ("app", "deploy"):
            shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("tests", "__pycache__"))
        port = free_port()
        (directory / ".env").write_text(f"API_KEY='{self.key}' # ours\nRATE_LIMIT=\nLOG_FILE=x.log\nAPP_PORT={port}\n")
        self.name = f"rag-chat-storage-test-{secrets.token_hex(4)}"
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": self.key}, trust_env=False, timeout=30
        )
        self._directory = directory

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return docker("compose", "-p", self.name, *arguments, cwd=self._directory, check=check)

    def up(self, *options: str) -> None:
        done = self.compose("up", *options, "--detach", "--wait", "app", "db", check=False)
        assert done.returncode == 0, done.stderr + self.compose("logs", check=False).stdout

    def python(self, statement: str) -> subprocess.CompletedProcess[str]:
        return self.compose("exec", "-T", "app", "python", "-c", statement, check=False)

    def inspect(self, service: str) -> dict[str, Any]:
        container = self.compose("ps", "-q", service).stdout.strip()
        (state,) = json.loads(docker("inspect", container).stdout)
        return dict(state)


def docker(*arguments: str, cwd: Path = ROOT, check: bool = True) -> subprocess.CompletedProcess[str]:
    # Compose lets the shell's variables win over .env, so it gets those only that say where the engine is.
    environment = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME"} or "DOCKER" in name}
    done = subprocess.run(
        ["docker", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    if shutil.which("docker") is None:
        pytest.skip("docker is not installed")
    if docker("version", check=False).returncode != 0:
        pytest.skip("no docker engine answers")
    if docker("compose", "version", check=False).returncode != 0:
        pytest.skip("docker has no compose plugin")
    project = Project(tmp_path)
    try:
        yield project
    finally:
        project.client.close()
        project.compose("down", "--volumes", "--rmi", "local", check=False)


def test_built_and_run_it_serves_keeps_data_and_stays_confined(project: Project) -> None:
    project.up("--build")
    session = project.client.post("/chat/sessions", json={"name": "kept"}).raise_for_status().json()
    assert project.client.get("/docs").status_code == 200

    assert project.inspect("app")["State"]["Health"]["Status"] == "healthy"
    assert project.inspect("db")["NetworkSettings"]["Ports"] == {"5432/tcp": None}
    assert project.python("import os; print(os.getuid(), os.getgid())").stdout.split() == ["10001", "10001"]
    assert project.python("open('/tmp/x', 'w')").returncode == 0
    for path in ("/x", "/srv/x", "/srv/app/x", "/opt/venv/x"):
        assert "Read-only file system" in project.python(f"open('{path}', 'w')").stderr
    log = project.python("import os; print(open(os.environ['LOG_FILE']).read())").stdout
    assert "POST /chat/sessions 201" in log

    project.compose("down")
    project.up()
    assert project.client.get(f"/chat/sessions/{session['id']}").raise_for_status().json() == session
    assert "POST /chat/sessions 201" in project.python("import os; print(open(os.environ['LOG_FILE']).read())").stdout
