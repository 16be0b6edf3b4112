# Every target builds its environment by itself; `make PYTHON=/path/to/python3.11 test` chooses the interpreter.
PYTHON ?= python3
EXTRAS ?= dev
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
TORCH  := $(shell sed -n '/^torch==/p' constraints.txt)
CHECKED := interp experiments tests notebooks/*.py

export OMP_NUM_THREADS ?= 2

.PHONY: .venv demo notebooks test lint clean
.DELETE_ON_ERROR:

.venv: $(STAMP)

# torch goes first and alone: a CPU wheel at hand is taken for it before anything else asks for a larger one.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "interp needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1); run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/python -m pip check
	@touch $@

demo: $(STAMP)
	$(BIN)/interp demo

notebooks: $(STAMP)
	$(BIN)/python notebooks/execute.py  # in full, outputs and pictures into the .ipynb; needs Chrome or Chromium

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2  # two processes of one thread each: more threads would fight over the cores

lint: $(STAMP)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find interp experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
