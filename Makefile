# Everything is installed in a virtual environment of this folder, except the real programs that the tests run:
# tests/tools.py lists them, and installs those that are missing where it may (as root, with apt).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Images of CI set it. Then each of some thousand processes compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# Tests at the same time: more than cores, because many of them wait.
WORKERS ?= 5
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# What is installed to be run and tested: the checkout itself, or a wheel built from it.
PRODUCT ?= -e .
# What tests need beside the product.
BESIDE := .dockerignore .github CHANGELOG.md LICENSE Makefile README.md deploy grafana pyproject.toml requirements.lock tests
# The current Prometheus that `make test-all` tries what reads metrics with, beside the one on PATH: v0.316.0 is 3.16.0.
PROMETHEUS3 := v0.316.0
PROMETHEUS3_FOLDER := build/tools/prometheus-$(PROMETHEUS3)
OF_PROMETHEUS := tests/rules tests/e2e/test_alerts.py tests/e2e/test_creation_times.py tests/e2e/test_dashboards.py tests/integration/test_promtool.py

.DEFAULT_GOAL := help
.PHONY: help demo test test-unit test-all test-prometheus3 test-wheel lint fuzz bench generated screenshots lint-dashboards dist publish lock audit clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/run ## watch the exporter on a simulated platform (Ctrl-C ends it; ARGS="--help" for its flags)
	@exec $(BIN)/sbg-exporter demo $(ARGS)

test: $(VENV)/test ## lint, then every test but the slow ones, with branch coverage (6 minutes on 2 cores)
	@$(BIN)/python -m tests.tools
	@$(MAKE) --no-print-directory lint
	@$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PARALLEL) -m "not slow" $(ARGS) && $(BIN)/coverage combine -q && $(BIN)/coverage report

test-unit: $(VENV)/test ## the tests of single modules: no tools, no coverage; for while you edit (45 seconds)
	$(BIN)/pytest -n 4 --dist loadfile tests/unit -m "not tools" $(ARGS)

test-all: export TEST_WIDTH = full
test-all: $(VENV)/test ## everything at full width: every mutant, kill and outage; machines, containers, Prometheus 3
	@$(BIN)/python -m tests.tools --all
	@$(MAKE) --no-print-directory lint
	$(BIN)/pytest $(PARALLEL) -m "not slow" $(ARGS)
	$(BIN)/pytest -m slow $(ARGS)
	@$(MAKE) --no-print-directory test-prometheus3
	@$(MAKE) --no-print-directory lint-dashboards

ifeq ($(shell command -v go 2>/dev/null),)
test-prometheus3:
	@echo "Go is missing: nothing is tried on Prometheus $(PROMETHEUS3)"
else
test-prometheus3: export PROMETHEUS = $(CURDIR)/$(PROMETHEUS3_FOLDER)/prometheus
test-prometheus3: export PROMTOOL = $(CURDIR)/$(PROMETHEUS3_FOLDER)/promtool
test-prometheus3: $(VENV)/test $(PROMETHEUS3_FOLDER) ## rules, alerts and dashboards on the newest Prometheus (needs Go; builds it in 6 minutes)
	@$(BIN)/python -m tests.tools
	$(BIN)/pytest $(PARALLEL) $(OF_PROMETHEUS) $(ARGS)
endif

# Under another name until both are built, so that a build that was interrupted is not taken for one.
$(PROMETHEUS3_FOLDER):
	rm -rf $@.new
	GOBIN=$(CURDIR)/$@.new go install $(foreach each,prometheus promtool,github.com/prometheus/prometheus/cmd/$(each)@$(PROMETHEUS3))
	mv $@.new $@

test-wheel: $(VENV)/test ## build the wheel and test that, in a folder without the package's sources
	@$(BIN)/python -m tests.tools
	rm -rf build/wheel && mkdir -p build/wheel
	tar --create --exclude=node_modules --exclude=__pycache__ $(BESIDE) | tar --extract --directory build/wheel
	$(BIN)/uv build -q --wheel --python $(BIN)/python --out-dir build/wheel/dist .
	@$(MAKE) --no-print-directory -C build/wheel PRODUCT=dist/*.whl $(VENV)/test
	cd build/wheel && TEST_CACHE=$${TEST_CACHE:-$(CURDIR)/build/cache} $(BIN)/pytest $(PARALLEL) -m "not slow and not sources" tests/deploy tests/integration tests/property tests/unit $(ARGS)

lint: $(VENV)/test ## formatting, ruff, mypy, the direction of imports, YAML, and what is unsafe in workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/yamllint -c deploy/prometheus/.yamllint deploy/prometheus deploy/compose
	$(BIN)/zizmor --quiet --offline --pedantic --no-progress .github

fuzz: $(VENV)/test ## try a million damaged inputs on all that reads foreign input (10 minutes; ARGS="record --seed 7")
	$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/test ## measure, as ratios of two things run side by side
	$(BIN)/python -m tests.bench $(ARGS)

generated: $(VENV)/test ## regenerate what is made from code: dashboards, words in rules, manifests, chart, tables in documents, golden texts
	$(BIN)/python -m grafana.build
	$(BIN)/python -m tests.doc_tables
	$(BIN)/python -m deploy.kubernetes.generate
	$(BIN)/python -m deploy.helm.generate
	$(BIN)/python -m tests.unit.test_exposition

screenshots: $(VENV)/test ## draw every dashboard with Grafana's own components into build/pictures (a quarter of an hour; needs npm)
	@$(BIN)/python -m tests.tools
	$(BIN)/python -m tests.e2e.render.shoot build/pictures $(ARGS)

# The same as for Prometheus 3: where it can be had. Exceptions and their reasons are in grafana/dashboards/.lint.
lint-dashboards: ## run grafana/dashboard-linter on the dashboards (installs it with Go if it is missing)
	@linter=$$(command -v dashboard-linter || echo $(CURDIR)/build/tools/bin/dashboard-linter); \
	[ -x "$$linter" ] || GOBIN=$(CURDIR)/build/tools/bin go install github.com/grafana/dashboard-linter@latest || \
	  { echo "dashboard-linter is missing and cannot be installed: the dashboards are not linted"; exit 0; }; \
	for dashboard in grafana/dashboards/*.json; do "$$linter" lint --strict "$$dashboard" || exit 1; done

dist: $(VENV)/test ## build a release into dist, rehearse publishing (needs helm, buildah, skopeo, or ARGS="--without image")
	$(BIN)/python -m deploy.dist dist $(ARGS)
	$(BIN)/python -m deploy.publish --dry-run check gather image chart packages release

publish: $(VENV)/uv ## publish what is in dist, as .github/workflows/release.yml does (ARGS="--tag v0.1.0 image")
	$(BIN)/python -m deploy.publish $(ARGS)

# Each file's header has its command, which .github/renovate.json runs too. The oldest Python is named because a lock made
# for the one at hand would lack what older ones need.
LOCK = uv pip compile --generate-hashes --universal --python-version=3.11

LOCKS = requirements.lock tests/requirements.lock deploy/docker/build-requirements.lock tests/deploy/requirements.txt tests/deploy/binaries.txt

lock: $(VENV)/test ## pin the newest versions that pyproject.toml allows, and what npm's packages need (needs npm)
	$(BIN)/$(LOCK) -q -U --output-file=requirements.lock pyproject.toml
	$(BIN)/$(LOCK) -q -U --group=dev --constraints=requirements.lock --output-file=tests/requirements.lock pyproject.toml
	cd deploy/docker && ../../$(BIN)/$(LOCK) -q -U --output-file=build-requirements.lock build-requirements.in
	cd tests/deploy && ../../$(BIN)/$(LOCK) -q -U --output-file=requirements.txt requirements.in
	cd tests/e2e/render && rm -f package-lock.json && npm install --silent --package-lock-only

# Lock by lock, because pip-audit rejects a package in two versions. Strict, because it otherwise passes what the database
# does not know.
audit: $(VENV)/test ## look for known vulnerabilities in what the locks pin (asks a public database)
	@failed=; for lock in $(LOCKS); do \
	  echo "$$lock"; $(BIN)/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r $$lock $(ARGS) || failed=1; \
	done; [ -z "$$failed" ]

clean: ## remove the virtual environment and all caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* build dist

# The stamps below make the second `make` quick: nothing is installed again until a lock or the project changes.
$(VENV)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 …" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/run: $(VENV)/python requirements.lock pyproject.toml
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --no-deps $(PRODUCT)
	@touch $@

$(VENV)/test: $(VENV)/run tests/requirements.lock
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r tests/requirements.lock
	@touch $@

# Nothing but uv: what publishes may do more than what tests, so it installs as little as it can.
$(VENV)/uv: $(VENV)/python tests/requirements.lock
	sed -n '/^uv==/,/^ *# via/p' tests/requirements.lock > $@.lock
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r $@.lock
	@touch $@
