# The project's commands; `make help` lists them. They all use the environment in .venv, which is made
# on first use and again after a change of the requirements.

PYTHON ?= python3
# Test processes; each takes about one core.
TEST_WORKERS ?= 2
# Extra arguments of pytest, e.g. make test TESTS=tests/configs
TESTS ?=

VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed
DEMO := runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint format bench clean

help:
	@echo "Times are of two CPU cores, without the first installation (about a minute and a half)."
	@echo "make demo     3-4 min  draw the embedded data set, train and evaluate on it"
	@echo "make test      11 min  the tests, without the slow ones"
	@echo "make test-slow 17 min  complete runs that must reach the README's results, and longer checks"
	@echo "make lint              check style and formatting"
	@echo "make format            format the code"
	@echo "make bench      2 min  time the hot paths, side by side with alternatives (5 min where torch is)"
	@echo "make clean             remove .venv, caches and the demo's run; data and other runs stay"
	@echo "The first of them installs the requirements into .venv (Python 3.11 or newer: PYTHON=...)."

# A demo shows a run from its beginning, so a finished or broken one is not resumed.
demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(RUN) main.py --config=configs/shapes_lt.py --workdir=$(DEMO)

test: $(INSTALLED)
	$(RUN) -m pytest -n $(TEST_WORKERS) -m "not slow" $(TESTS)

# One at a time: slow tests time things and use every core themselves.
test-slow: $(INSTALLED)
	$(RUN) -m pytest -m slow $(TESTS)

lint: $(INSTALLED)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

format: $(INSTALLED)
	$(RUN) -m ruff check --fix-only --quiet
	$(RUN) -m ruff format

bench: $(INSTALLED)
	$(RUN) -m benchmarks.run

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(\
	  "Python 3.11 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
