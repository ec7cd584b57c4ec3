# Two commands do all the set-up: `make run` and `make test`.
# Everything lives in .venv (Python) and .cache (servers for tests, unpacked, not installed).

VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
PYTEST_ARGS ?=
RUN_ARGS ?=

.PHONY: help setup setup-test run demo test unit quick test-long lint types coverage bench bpf build deb rpm pictures clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: $(VENV)/.run  ## .venv with smtpguard, and the few system libraries it needs
setup-test: $(VENV)/.test

$(VENV)/.run: pyproject.toml config/setup.sh
	@bash config/setup.sh run
	@touch $@

$(VENV)/.test: $(VENV)/.run pyproject.toml config/setup.sh
	@bash config/setup.sh test
	@touch $@

$(VENV)/.build: $(VENV)/.run
	@$(BIN)/python -m pip install -q --disable-pip-version-check 'build>=1.2'
	@touch $@

run: setup  ## watch this host, refuse nobody: smtpguard run --dry-run
	$(BIN)/smtpguard run --dry-run $(RUN_ARGS)

demo: setup  ## a hacked site, an innocent one and the guard, in namespaces of their own
	$(BIN)/smtpguard demo

test: setup-test  ## lint, types, import contract, all tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint types
	$(BIN)/python -m pytest -m "not long and not bench" --two-at-a-time --durations=20 $(PYTEST_ARGS)

unit: setup-test  ## the tests that need no root and no kernel, within a minute
	$(BIN)/python -m pytest tests/unit tests/property tests/cli -m "not long and not bench and not kernel" --two-at-a-time $(PYTEST_ARGS)

quick:  ## one test and nothing before it: make quick T=tests/unit/test_engine.py
	@test -n "$(T)" || { echo "which? make quick T=tests/unit/test_engine.py::test_name" >&2; exit 2; }
	$(BIN)/python -m pytest $(T) $(PYTEST_ARGS)

test-long: setup-test  ## soak, fuzz and outages in full, and properties by examples that nobody has tried yet
	SMTPGUARD_TEST_EXAMPLES=20 $(BIN)/python -m pytest tests/property -m "not long" --two-at-a-time --timeout 3600 $(PYTEST_ARGS); \
	found=$$?; $(BIN)/python -m pytest -m long --timeout 3600 $(PYTEST_ARGS) && exit $$found

lint: setup-test  ## ruff, import contract, spelling, dead code, size and names of modules, wording of messages and documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/codespell
	$(BIN)/python tests/house.py
	$(BIN)/python tests/words.py
	$(BIN)/vulture

types: setup-test  ## mypy --strict, tests too
	$(BIN)/mypy

coverage: setup-test  ## the lines of daemon/, control/ and standalone/ that no test runs; each needs a test, or a pragma that says why not
	@bash tests/coverage.sh $(BIN)/python $(PYTEST_ARGS)

bench: setup-test  ## ratios measured in one run
	$(BIN)/python -m pytest -m bench --timeout 3600 -s $(PYTEST_ARGS)

pictures: setup-test  ## the pictures of the documents, made anew from real runs (root; Debian's chromium)
	$(BIN)/python -m tests.pictures

bpf: setup-test  ## rebuild the BPF object from its C source
	bash config/setup.sh bpf

build: $(VENV)/.build  ## sdist, and the wheel through it
	$(BIN)/python -m build

deb: build  ## a Debian package in dist/
	$(BIN)/python packaging/deb.py "$$(ls -t dist/*.whl | head -n 1)" dist

rpm: build  ## an rpm in dist/ (needs rpmbuild and pip for the python it is built for: dnf install rpm-build python3.11-pip)
	bash packaging/rpm.sh "$$(ls -t dist/*.whl | head -n 1)" dist

clean:  ## remove what make made
	rm -rf $(VENV) .cache build dist .mypy_cache .ruff_cache .hypothesis .benchmarks
