# make demo   set up, export the demo models for a Raspberry Pi, verify and profile them
# make test   set up and run the tests (the fast ones; PYTEST_ARGS= runs all)
# make lint   ruff and mypy
# make bench  the side-by-side benchmarks, results in results/
#
# PYTHON is the interpreter that .venv is made with (3.11 or newer), PIP_ARGS goes to every pip install.

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
PYTEST_ARGS ?= -m "not slow"
PYTEST_WORKERS ?= 2
BENCH_ARGS ?=

BIN := $(VENV)/bin
BENCHMARKS := tspulse fmvit matrix interformer kernels plm_skip plm_vs_llamacpp static plm_counts
DEMO := $(patsubst %,%-rpi.edge,plm tspulse interformer fmvit relu2-mlp)
# mypy looks a package up in one folder; the sub-packages that lie beside edge/ are linked into one for it.
TYPING := build/typing
BESIDE := export runtimes devices

.PHONY: demo test lint bench clean

demo: $(VENV)/.export
	$(BIN)/edge export --target rpi
	@for bundle in $(DEMO); do \
	  echo; echo "== edge verify $$bundle"; $(BIN)/edge verify $$bundle || exit; \
	  echo; echo "== edge profile $$bundle"; $(BIN)/edge profile $$bundle || exit; \
	done

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	@rm -rf $(TYPING) && mkdir -p $(TYPING)/edge
	@ln -s $(CURDIR)/edge/* $(addprefix $(CURDIR)/,$(BESIDE)) $(TYPING)/edge/
	cd $(TYPING) && $(abspath $(BIN))/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p edge

bench: $(VENV)/.dev
	@mkdir -p results
	@for name in $(BENCHMARKS); do \
	  echo "== $$name"; $(BIN)/python benchmarks/$$name.py --json results/$$name.json $(BENCH_ARGS) || exit; \
	done

clean:
	rm -rf $(VENV) build dist *.egg-info $(DEMO)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edge needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# What pyproject.toml asks for; a stamp each, so that a second run starts at once.
$(VENV)/.export: pyproject.toml | $(BIN)/python
	@echo "Installing PyTorch and the three runtimes into $(VENV): some 2.5 GB, a few minutes."
	@$(BIN)/pip install --quiet $(PIP_ARGS) -e '.[export]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing PyTorch, the three runtimes and the tools for tests into $(VENV): some 2.5 GB, a few minutes."
	@$(BIN)/pip install --quiet $(PIP_ARGS) -e '.[dev]'
	@touch $@ $(VENV)/.export
