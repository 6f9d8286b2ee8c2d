# From a clean clone: `make demo`, `make test`. Needs Python 3.10 or newer, make, and a package index that pip can reach.
# Everything is set up in .venv (and .venv-bench); a second run finds its stamps there and starts at once.

PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
ARGS ?=
# Tests wait more than they compute: one test process more than there are cores, and on a single core none.
CORES := $(shell nproc 2> /dev/null || echo 1)
TEST_PROCESSES ?= $(if $(filter 1,$(CORES)),0,$(shell expr $(CORES) + 1))

BIN := $(VENV)/bin
# Compiled files are kept, and apart from the sources: tests start some thousand processes, each would compile zray.
PYTEST := env -u PYTHONDONTWRITEBYTECODE PYTHONPYCACHEPREFIX=$(abspath $(VENV))/bytecode $(BIN)/python -m pytest
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help demo test coverage bench bench-hosts bench-scale docs lint format types layers clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16
	@echo "ARGS=... goes to the program that is run: make test ARGS='tests/unit -x'"

demo: $(VENV)/.installed ## Analyse the Python standard library with zray
	$(BIN)/python examples/quickstart.py $(ARGS)

test: $(VENV)/.installed-test ## All tests; ZRAY_TEST_SEEDS sets the number of simulated runs
	$(PYTEST) -n $(TEST_PROCESSES) $(ARGS)

coverage: $(VENV)/.installed-test ## What of zray the unit and conformance tests run; fails below a floor
	rm -f .coverage .coverage.*
	$(PYTEST) -n $(TEST_PROCESSES) --cov --cov-report=term tests/unit tests/conformance $(ARGS)

bench: $(BENCH_VENV)/.installed-bench ## Measure zray beside Ray, loky and ProcessPoolExecutor
	$(BENCH_VENV)/bin/python benchmarks/run.py $(ARGS)

bench-hosts: $(VENV)/.installed-test ## Measure what hosts on a network cost, and objects between them (root)
	$(BIN)/python -m benchmarks.hosts $(ARGS)

bench-scale: $(VENV)/.installed ## Play a cluster of a thousand hosts, and time what must not grow with the number of things
	$(BIN)/python -m benchmarks.scale $(ARGS); scale=$$?; \
	$(BIN)/python -m benchmarks.slopes $(filter --quick,$(ARGS)) && exit $$scale

docs: $(VENV)/.installed-docs ## The documentation site, in out/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)
	@echo "the site is in out/site: open out/site/index.html, or, to search in it, run $(BIN)/mkdocs serve"

lint: $(VENV)/.installed-lint ## Style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-lint ## Mend what of style and formatting can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.installed-lint $(VENV)/.installed-test ## Types: strict ones of zray, and those of its tests
	$(BIN)/mypy

layers: $(VENV)/.installed-lint ## Who may import whom: the layers of docs/architecture.md, and no cycle
	$(BIN)/lint-imports
	$(BIN)/python .ci/cycles.py

clean: ## Remove all that was set up and built
	rm -rf $(VENV) $(BENCH_VENV) build dist out *.egg-info
	rm -rf .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says that an environment has what its name says, as of the present pyproject.toml.

%/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "zray needs Python 3.10 or newer: make PYTHON=...")'
	$(PYTHON) -m venv $*
	@touch $@

%/.installed: %/.created pyproject.toml
	$*/bin/python $(PIP_INSTALL) --editable .
	@touch $@

%/.installed-test: %/.created pyproject.toml
	$*/bin/python $(PIP_INSTALL) --editable '.[test,examples]'
	@touch $@

%/.installed-docs: %/.created pyproject.toml
	$*/bin/python $(PIP_INSTALL) --editable '.[docs]'
	@touch $@

%/.installed-lint: %/.created pyproject.toml
	$*/bin/python $(PIP_INSTALL) --editable '.[lint]'
	@touch $@

%/.installed-bench: %/.created pyproject.toml
	$*/bin/python $(PIP_INSTALL) --editable '.[bench]'
	@touch $@

.PRECIOUS: %/.created %/.installed %/.installed-test %/.installed-docs %/.installed-lint %/.installed-bench
