.PHONY: setup demo test lint bench notebooks vllm
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# packages are turned into byte code when they are first imported, not when they are installed: that is half of the time
PIP := $(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable
export PYTHONDONTWRITEBYTECODE =

setup: $(VENV)/.ready

$(BIN)/pip:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rolloutsim needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# what the command needs; torch and the tools of the tests come with .ready
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(PIP) .
	touch $@

$(VENV)/.ready: $(VENV)/.installed
	$(PIP) '.[calibration,dev,tables,tokenizer]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/rolloutsim replay traces/data/countdown.parquet --profile h100-llama-3.1-8b-published --drafter suffix \
		--policy none --policy fixed:4 --policy unlimited --policy das --steps 20 --max-num-seqs 64 --out out/demo --html out/demo/page.html

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest -rs

# a real engine, in an environment of its own, with rolloutsim beside it for the proposer: nothing of it is imported by the one above
VLLM := .venv-vllm
VLLM_PIP := PATH="$(CURDIR)/$(VLLM)/bin:$$PATH" $(VLLM)/bin/pip install --quiet --no-compile --no-deps
vllm: $(VLLM)/.ready
$(VLLM)/.ready: constraints-vllm.txt pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM_PIP) --requirement constraints-vllm.txt
	$(VLLM_PIP) --no-build-isolation arctic-inference==0.3.0
	$(VLLM_PIP) --editable .
	touch $@

bench: setup
	$(BIN)/python -m tests.benchmarks

# executes notebooks/*.py, and writes the .ipynb beside them, which the tests hold them to
notebooks: setup
	$(BIN)/python -m tests.notebooks
