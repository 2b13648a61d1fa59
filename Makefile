# Two commands matter: `make demo` and `make test`. Each installs what it needs first.
.PHONY: help setup demo down status test lint format lock clean soak
.DEFAULT_GOAL := help

# Not in a user's PATH on Debian, nor in root's after a plain `su`.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

SUDO := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo)
LANDBRIDGE := $(SUDO) .venv/bin/landbridge
PYTEST := $(SUDO) .venv/bin/python -m pytest

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## Install Debian and Python packages
	@scripts/setup

demo: setup  ## Build two sites here and carry a running VM from one to the other
	@$(LANDBRIDGE) lab demo

down: setup  ## Remove every process, namespace, bridge and file the lab made
	@$(LANDBRIDGE) lab down

status: setup  ## Show what is up
	@$(LANDBRIDGE) lab status

test: setup  ## Run all the tests: two files at a time, then the two whole sites by themselves
	@$(PYTEST) -n 2 --dist loadfile tests/unit tests/integration
	@$(PYTEST) tests/e2e

test-%: setup  ## Run one package's tests: make test-esx
	@found="$(wildcard tests/unit/$* tests/integration/$* tests/e2e/$*)"; \
		[ -n "$$found" ] || { echo "no tests are called $*: see tests/README.md" >&2; exit 1; }; \
		$(PYTEST) $$found

lint: setup  ## Lint, format, types, import contracts
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

format: setup  ## Format the code
	@.venv/bin/ruff format .
	@.venv/bin/ruff check --fix .

lock: setup  ## Resolve pyproject.toml into requirements.lock again
	@.tools/bin/uv --quiet pip compile pyproject.toml --group dev --generate-hashes --no-emit-index-url \
		--no-header --python-version 3.11 --output-file requirements.lock

soak: setup  ## The long test: a Debian guest with PostgreSQL under load, moved there and back
	@$(PYTEST) -s tests/soak

clean:  ## Remove the Python environment and caches
	@$(SUDO) rm -rf .venv .tools .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@$(SUDO) find . -name __pycache__ -prune -exec rm -rf {} +
