# make help   lists the verbs; each does the same here as in CI.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PYTEST = $(PY) -m pytest
UV := $(PY) -m uv pip compile --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-header --quiet

.DEFAULT_GOAL := help
.PHONY: help run test torture check coverage bench bench-check demo format lock snapshots

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: $(VENV)/.installed .env ## install, start the database, migrate, serve http://localhost:8000
	@$(PY) -m app serve

test: $(VENV)/.installed ## run the whole suite on a real PostgreSQL that it starts itself
	@$(PYTEST)

torture: $(VENV)/.dev ## kill, freeze and flood a real service at length; ARGS="crashes --rounds 20 --seed 7"
	@$(PY) -m app.tests.faults $(ARGS)

demo: $(VENV)/.installed ## a RAG chatbot with this service as its memory, over the docs of this project
	@$(PY) examples/demo.py

check: $(VENV)/.dev ## every gate: style, types, floors, tests
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports --no-cache
	@$(PYTEST)

# Without the faults, and not part of check: following every greenlet, coverage takes more than twice the time.
coverage: $(VENV)/.dev ## what the tests of the routes, the store and the database leave untried
	@$(PYTEST) --cov --cov-report=term --cov-fail-under=85 app/tests/api app/tests/db app/tests/store app/tests/telemetry

format: $(VENV)/.dev ## put the code into shape
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

bench: $(VENV)/.dev ## measure the service beside PostgreSQL and its rivals in half an hour; QUICK=1 takes five minutes
	@$(PY) benchmarks/speed $(if $(QUICK),--quick --results benchmarks/results/quick.json,\
		--results benchmarks/results/full.json --plots docs/performance)

bench-check: $(VENV)/.dev ## whether an operation costs much more CPU than in benchmarks/baseline.json; ARGS=--update
	@$(PY) benchmarks/speed/check.py $(ARGS)

lock: $(VENV)/.dev ## resolve the ranges of pyproject.toml anew
	$(UV) pyproject.toml --extra embedded --group test -o requirements.txt
	$(UV) pyproject.toml -c requirements.txt -o requirements-prod.txt
	$(UV) --group dev -c requirements.txt -o requirements-dev.txt

snapshots: $(VENV)/.installed ## write docs/openapi.json as the code has it now
	@$(PY) -m app openapi > docs/openapi.json

.env:
	@umask 077; key=$$($(PY) -c 'import secrets; print(secrets.token_urlsafe(32))'); \
	sed "s/^API_KEY=.*/API_KEY=$$key/" .env.example > .env
	@echo "made .env with a fresh API_KEY"

$(VENV)/.installed: requirements.txt
	@echo "installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.installed
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
