# Everything happens in a virtual environment of this folder; nothing is installed outside it,
# except the real Prometheus that `make test` checks against (from Debian, when it is missing).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench dashboards screenshots dist lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/run ## watch the exporter on a simulated platform (Ctrl-C ends it; ARGS="--help" for its flags)
	@exec $(BIN)/sbg-exporter demo $(ARGS)

test: $(VENV)/test ## lint, then run every test, with branch coverage
	@tests/install-tools
	@$(MAKE) --no-print-directory lint
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS) && $(BIN)/coverage combine -q && $(BIN)/coverage report

lint: $(VENV)/test ## formatting, ruff, mypy and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/test ## measure, as ratios of two things run side by side
	$(BIN)/python -m tests.bench $(ARGS)

dashboards: $(VENV)/test ## write grafana/dashboards anew from the code in grafana/
	$(BIN)/python -m grafana.build

screenshots: $(VENV)/test ## draw every dashboard with Grafana's own components into build/pictures (5 minutes; needs npm)
	@tests/install-tools
	$(BIN)/python -m tests.e2e.render.shoot build/pictures $(ARGS)

dist: $(VENV)/test ## build a release into dist (needs buildah; ARGS="--without image" builds none)
	$(BIN)/python -m deploy.dist dist $(ARGS)

lock: $(VENV)/test ## pin the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile -q -U --generate-hashes --universal --no-header pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile -q -U --generate-hashes --universal --no-header pyproject.toml --group dev -c requirements.lock -o tests/requirements.lock

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* build dist

# The stamps below make the second `make` quick: nothing is installed again until a lock or the project changes.
$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run: $(VENV)/python requirements.lock pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@

$(VENV)/test: $(VENV)/run tests/requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@touch $@
