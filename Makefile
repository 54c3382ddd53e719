# Everything by `make`: each goal sets up what it needs first (tools/make_environment.py, a second at most when nothing changed).

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup run test lint clean

# The Python that .venv/ is made from: what it was made from before, or the first on the PATH that fits.
PYTHON ?= $(or $(wildcard .venv/bin/python),$(shell \
  for python in python3 python3.12 python3.11 python3.10 python3.13 python3.14; do \
    $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2> /dev/null \
      && echo $$python && break; \
  done),python3)

# Instruction for `make run`; options for pytest.
ASK ?=
TESTS ?= tests
export ASK

in_environment := source ./env.sh &&

help:
	@echo 'make run                      a recorded camera, eight instructions, reasoning and masks; pictures in out/'
	@echo 'make run ASK="the blue mug"   the same with your instruction'
	@echo 'make test                     linter, type checker, tests (TESTS="tests/model -k box" for some of them)'
	@echo 'make lint                     linter and type checker alone'
	@echo 'make setup                    the environment alone, in .venv/ build/ install/; `. ./env.sh` enters it'
	@echo '                              PYTHON=python3.10 chooses the Python, LENS_TORCH=cpu|cuda|keep the torch build'
	@echo 'make clean                    removes all that the others made'

setup:
	@$(PYTHON) tools/make_environment.py

run: setup
	@$(in_environment) python -m lens_ros.nodes.demo --out out $(if $(ASK),--ask "$$ASK")

lint: setup
	@echo '== ruff' && $(in_environment) ruff check .
	@echo '== mypy' && $(in_environment) mypy lens_ros training benchmarks

test: lint
	@echo '== pytest' && $(in_environment) python -m pytest $(TESTS)

clean:
	rm -rf .venv build install log out .mypy_cache .pytest_cache .ruff_cache .hypothesis lens_ros.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
