# make help lists the targets. Everything happens in .venv; PYTHON chooses the interpreter that makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help

.PHONY: help install run test test-slow test-slurm test-browser mutation fuzz lint type bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info < (3, 14); sys.exit(not ok and "trust_exp needs Python 3.11 to 3.13; this is %d.%d. Name another one: make PYTHON=python3.12" % sys.version_info[:2])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a minute or two) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

install: $(READY)  ## make .venv and install into it

run: $(READY)  ## the main job: CLL on handwritten digits, certified and attacked
	@$(BIN)/python run.py method=cll dataset=digits

test: $(READY)  ## all tests but the slow ones
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope

test-slow: $(READY)  ## the tests that take minutes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope -m slow

test-slurm: $(READY)  ## the SLURM launcher against a real SLURM; installs Debian packages, skips where it cannot
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slurm -rs --durations=5

test-browser: $(READY)  ## the report page in a headless Chromium; skips where there is none
	@$(BIN)/python -m pytest -m browser -rs

N ?= 400
SEED ?= 0
JOBS ?= 2

mutation: $(READY)  ## small faults in the maths that a test should notice: N=400 SEED=0 JOBS=2
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutation --number $(N) --seed $(SEED) --jobs $(JOBS)

fuzz: N := 100000
fuzz: $(READY)  ## changed files for every reader; hours, or N=1000 READERS="npz voc"
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz -n $(N) $(READERS)

lint: $(READY)  ## style, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

type: $(READY)  ## static types
	@$(BIN)/mypy

bench: $(READY)  ## speed, as ratios against the plain way in one run
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## remove .venv and caches; never data or runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
