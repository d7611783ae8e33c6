.PHONY: setup demo test lint bench
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rolloutsim needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[calibration,dev,tokenizer]'
	touch $@

demo: setup
	$(BIN)/rolloutsim replay traces/data/countdown.parquet --profile h100-llama-3.1-8b-published --drafter suffix \
		--policy none --policy fixed:4 --policy unlimited --policy das --steps 20 --max-num-seqs 64 --out out/demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest

bench: setup
	$(BIN)/python -m tests.benchmarks
