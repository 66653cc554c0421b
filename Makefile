# The door to the project. Needs Python >= 3.11, git and make; everything else comes into .venv (see tools/setup).
# `make demo` and `make setup` install what chandlery needs (requirements/run.txt), which is quicker;
# the other targets add the tools (requirements/dev.txt).

PYTHON ?=
ARGS ?=
WORKERS ?= 2
export PYTHON
# Without bytecode each start of a program costs four seconds of compiling ccxt.
unexport PYTHONDONTWRITEBYTECODE PYTHONHOME PYTHONPATH VIRTUAL_ENV

BIN := .venv/bin
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header $(ARGS)

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-run setup-dev demo test influxd check prove format docs lock wheel bench clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1#\2/p' Makefile | awk -F'#' '{ printf "%-14s %s\n", $$1, $$2 }'

setup: setup-run ## make .venv with what chandlery needs

setup-run:
	@tools/setup run

setup-dev:
	@tools/setup dev

demo: setup-run ## fetch from the local exchange, verify, show, chart; no network (ARGS="--help" for options)
	@$(BIN)/chandlery demo $(ARGS)

test: setup-dev ## run all tests (ARGS="-k timeframe" for some)
	@$(PYTEST) $(ARGS)

influxd: ## get the InfluxDB server that the tests use: found, or built once (docs/influxdb-server.md)
	@tools/influxd/install

check: setup-dev ## format, lint, types, layers, docs: everything but the tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/docs.py --check

prove: setup-dev ## the tests of what must be survived, with full counts (takes long)
	@CHANDLERY_PROVE=full $(PYTEST) --timeout 7200 -o faulthandler_timeout=0 tests/survive $(ARGS)

format: setup-dev ## put the code into shape
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: setup-dev ## make the generated parts of README and docs anew
	$(BIN)/python tools/docs.py

lock: setup-dev ## make the lock files anew after a change of dependencies (ARGS=--upgrade for newer versions)
	$(COMPILE) pyproject.toml --group build -o requirements/run.txt
	$(COMPILE) pyproject.toml --group dev --extra pandas --extra original -c requirements/run.txt -o requirements/dev.txt
	echo uv | $(COMPILE) - -c requirements/run.txt -o requirements/uv.txt

wheel: setup-dev ## build the wheel into dist/
	$(BIN)/uv build --quiet --wheel --no-build-isolation --python $(BIN)/python --out-dir dist
	@ls dist/*.whl

bench: ## list the measurements
	@for file in bench/*.py; do [ ! -f "$$file" ] || \
		printf '  .venv/bin/python %-28s %s\n' "$$file" "$$(sed -n '1s/^"""\([^"]*\).*/\1/p' "$$file")"; done

clean: ## remove .venv, caches and built files
	rm -rf .venv .venv.old dist build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage .coverage.*
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
