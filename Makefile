# Everything by `make`: each goal sets up what it needs first (tools/make_environment.py, a second at most when nothing changed).

SHELL := bash
.DEFAULT_GOAL := help
.PHONY: help setup run test test-long lint docs soak faults train-nano train-smoke clean

# The Python that .venv/ is made from: what it was made from before, or the first on the PATH that fits.
PYTHON ?= $(or $(wildcard .venv/bin/python),$(shell \
  for python in python3 python3.12 python3.11 python3.10 python3.13 python3.14; do \
    $$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2> /dev/null \
      && echo $$python && break; \
  done),python3)

# Instruction for `make run`; options for pytest.
ASK ?=
TESTS ?= tests
JOBS ?= 3
# Length of `make soak`.
MINUTES ?= 120
export ASK

in_environment := source ./env.sh &&

help:
	@echo 'make run                      a recorded camera, eight instructions, reasoning and masks; pictures in out/'
	@echo 'make run ASK="the yellow bowl" the same with your instruction'
	@echo 'make test                     lint and tests (TESTS="tests/model -k box" for some of them, JOBS=0 in one process)'
	@echo 'make test-long                what takes minutes, gigabytes, the network or a quiet machine (docs/internals/testing.md)'
	@echo 'make faults                   every fault that the node is to bear; out/faults.json and docs/results/faults.md'
	@echo 'make lint                     linter, type checker and the check of the documentation'
	@echo 'make docs                     the documentation as a site, in out/site/index.html'
	@echo 'make soak                     hours of a robot'"'"'s day in fast motion: nothing may grow (MINUTES=120)'
	@echo 'make train-smoke              the training programs end to end, a few steps each; results in out/train-smoke'
	@echo 'make train-nano               lens-nano from nothing, overnight on two cores; goes on where it was stopped'
	@echo 'make setup                    the environment alone, in .venv/ build/ install/; `. ./env.sh` enters it'
	@echo '                              PYTHON=python3.10 chooses the Python, LENS_TORCH=cpu|cuda|keep the torch build,'
	@echo '                              ROS_WHEELS=jazzy|kilted the ROS 2'
	@echo 'make clean                    removes all that the others made'

setup:
	@$(PYTHON) tools/make_environment.py

run: setup
	@$(in_environment) python -m lens_ros.commands.demo --out out $(if $(ASK),--ask "$$ASK")

lint: setup
	@echo '== ruff' && $(in_environment) ruff check .
	@echo '== mypy' && $(in_environment) mypy lens_ros training benchmarks examples
	@echo '== mkdocs' && $(in_environment) NO_MKDOCS_2_WARNING=1 mkdocs build --strict

# The pages of the reference are committed; a test compares them with the sources.
docs: setup
	@$(in_environment) python tools/make_reference.py && NO_MKDOCS_2_WARNING=1 mkdocs build --strict

test: lint
	@echo '== pytest' && $(in_environment) python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TESTS)

# One at a time: some measure, others need most of the memory.
test-long: setup
	@$(in_environment) python -m pytest -m long --durations=0 $(TESTS)

# The table has no row for a new fault until its page is written.
faults: setup
	@$(in_environment) python -m pytest tests/faults --ignore tests/faults/test_table.py --faults-json out/faults.json \
	&& PYTHONPATH="tests:$$PYTHONPATH" python -m faults.report out/faults.json docs/results/faults.md

train-smoke: setup
	@$(in_environment) rm -rf out/train-smoke && python -m training.tools.smoke out/train-smoke

# Needs a machine that does little else, or its latencies are the others'. Results in out/soak.
soak: setup
	@$(in_environment) python -m benchmarks.soak --minutes $(MINUTES) --out out/soak

# Every piece goes on where it was stopped, and does nothing more once it is finished.
train-nano: setup
	@$(in_environment) set -e; \
	python -m training.data.tabletop --seed 1 --scenes 20480 --workers 2 --out runs/tabletop; \
	python -m training.supervise training/configs/nano.yaml; \
	python -m training.supervise training/configs/nano_continue.yaml start_from=runs/nano/model; \
	python -m training.data.tabletop --seed 3 --scenes 24576 --workers 2 --out runs/tabletop3; \
	python -m training.supervise training/configs/nano_continue2.yaml start_from=runs/nano_continue/model; \
	python -m training.tools.compare --start runs/nano_continue2/model --data runs/tabletop3 --out runs/compare; \
	python -m training.tools.average runs/nano_average runs/nano_continue2/model runs/compare/*-?/model; \
	python -m training.tools.calibrate --model runs/nano_average --fit-seed 9650 --threshold-seed 9661 --seed 9671 --write

clean:
	rm -rf .venv build install log out .mypy_cache .pytest_cache .ruff_cache .hypothesis lens_ros.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
