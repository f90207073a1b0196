# The development tasks. `make help` lists them; each installs what it needs on first use.

VENV      := .venv
BIN       := $(VENV)/bin
STAMP     := $(VENV)/.installed
# Processes for the tests; and the interpreter for the environment: empty means the first suitable one (Python 3.11 or later).
JOBS      ?= 2
PYTHON    ?=
# More options for pip, for example another index from which it takes PyTorch's CPU build.
PIP_ARGS  ?=
OUT       ?= demo-out
# A file's tests stay in one process, which makes once what they share.
PYTEST    := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --benchmark-disable
NBMAKE    := $(PYTEST) --nbmake --nbmake-timeout=300 notebooks
CHECK     := build/check

# The caller's Python settings must not reach the tests; nothing here needs a network once it is installed.
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTEST_ADDOPTS PYTEST_PLUGINS MYPYPATH VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONNOUSERSITE := 1
export HF_HUB_OFFLINE := 1
export OMP_NUM_THREADS := 1
export MPLBACKEND := Agg

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast test-all notebooks bench accuracy public-tables kernel-tables kernel-accuracy triton-accuracy lint format typings wheel docs docs-serve constraints clean distclean

help: ## list the tasks
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	@if [ ! -x $(BIN)/python ]; then \
	  for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14 python; do \
	    if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: no Python 3.11 or later with venv and ensurepip on PATH; name one: make PYTHON=/path/to/python3" \
	      "(on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$("$$found" -c 'import sys; print(sys.executable, sys.version.split()[0])')"; \
	  "$$found" -m venv $(VENV); \
	fi
	@echo "Installing presilicon and what it needs into $(VENV) (a few minutes the first time)"
	$(BIN)/python -m pip install --quiet $(PIP_ARGS) -c constraints.txt -e ".[trace,kernels,fast,explore,cluster,notebook,dev]"
	@touch $@

install: $(STAMP) ## make .venv and install into it, in editable mode

demo: $(STAMP) ## predict Llama-3-8B on three GPUs; leaves a timeline and a picture in demo-out
	$(BIN)/presilicon demo --out $(OUT)

test: $(STAMP) ## all tests but the exhaustive ones
	$(PYTEST) -m "not exhaustive"

test-fast: $(STAMP) ## leaves out the slow tests and the benchmarks too
	$(PYTEST) -m "not slow and not exhaustive" --ignore tests/benchmarks

test-all: $(STAMP) ## everything, notebooks included
	$(PYTEST)
	$(NBMAKE)

notebooks: $(STAMP) ## execute the notebooks
	$(NBMAKE)

bench: $(STAMP) ## how fast presilicon itself is, on this machine
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only

PUBLIC    := build/public

public-tables: $(STAMP) ## op tables of H100, H200, B200, GB200, A100 and L40S into build/public/tables, from a package on PyPI (32 MB)
	$(BIN)/python -m pip download --quiet --no-deps $(PIP_ARGS) --dest $(PUBLIC) aiconfigurator==0.7.0
	$(BIN)/python -m presilicon.validate.public_tables $(PUBLIC)/aiconfigurator-0.7.0-py3-none-any.whl $(PUBLIC)/tables

kernel-tables: $(STAMP) ## op tables with rows of Triton kernels on seven GPUs into build/public/kernels, from a package on PyPI (82 MB)
	mkdir -p $(PUBLIC)
	$(BIN)/python -m pip download --quiet --no-deps $(PIP_ARGS) --dest $(PUBLIC) aiconfigurator-core==0.12.0
	$(BIN)/python -m presilicon.validate.public_tables $(PUBLIC)/aiconfigurator_core-0.12.0-*.whl $(PUBLIC)/kernels

accuracy: public-tables ## error tables from measured and public op tables, into docs/ and README.md: make accuracy MEASURED=FOLDER
	@rm -rf build/accuracy && mkdir -p build/accuracy
	cp $(foreach gpu,h100 h200 b200 gb200,$(PUBLIC)/tables/$(gpu)_sxm.*.csv) \
	  $(or $(MEASURED),$(error name a folder of op tables: make accuracy MEASURED=FOLDER))/*.csv build/accuracy
	$(BIN)/presilicon validate build/accuracy --system a100_sxm=a100-sxm-80gb --protocol held-out --protocol transfer --out docs/error-tables.md
	@{ sed '/<!-- accuracy:begin/q' README.md; awk '/^## Overview/ {on = 1; next} on && /^## / {exit} on && /^\|/' docs/error-tables.md; \
	  printf '\nBy data type and size, and the worst rows: [error tables](docs/error-tables.md).\n'; \
	  sed -n '/<!-- accuracy:end/,$$p' README.md; } >README.new && mv README.new README.md

kernel-accuracy: $(STAMP) ## fit and error tables of measured kernels, into docs/accuracy.md: make kernel-accuracy MEASURED=h100.csv SYSTEM=h100-sxm
	@mkdir -p build
	$(BIN)/presilicon calibrate $(or $(MEASURED),$(error name a file of presilicon measure: make kernel-accuracy MEASURED=h100.csv SYSTEM=h100-sxm)) \
	  --system $(or $(SYSTEM),$(error name its GPU: SYSTEM=h100-sxm)) -o build/$(basename $(notdir $(MEASURED))).yaml
	$(BIN)/presilicon validate $(MEASURED) --system build/$(basename $(notdir $(MEASURED))).yaml --into $(or $(PAGE),docs/accuracy.md) $(OPTIONS)

# The tutorials' figures were published with Triton 3.0: its kernels are compiled in an environment of their own (wheels for Python 3.8 to
# 3.12). OLDER= leaves them out.
OLDER     ?= build/triton-3.0.0

build/triton-3.0.0/kernels.json: validate/older_triton.py validate/kernels/gemm.py | $(STAMP)
	@for python in $(PYTHON) $(BIN)/python python3.11 python3.12 python3.10 python3.9 python3; do \
	  if "$$python" -c 'import sys, venv, ensurepip; sys.exit(not (3, 8) <= sys.version_info < (3, 13))' >/dev/null 2>&1; then \
	    found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "make: Triton 3.0.0 needs a Python from 3.8 to 3.12 with venv: make triton-accuracy PYTHON=/path/to/python3.12, or OLDER= to leave it out" >&2; \
	  exit 1; \
	fi; \
	echo "Compiling the tutorials' kernels with Triton 3.0.0, in build/triton-3.0.0 (the first time: 200 MB from PyPI)"; \
	"$$found" -m venv build/triton-3.0.0/venv
	build/triton-3.0.0/venv/bin/python -m pip install --quiet $(PIP_ARGS) triton==3.0.0 setuptools
	TRITON_CACHE_DIR=$(CURDIR)/build/triton-3.0.0/cache build/triton-3.0.0/venv/bin/python validate/older_triton.py build/triton-3.0.0

triton-accuracy: $(STAMP) $(addsuffix /kernels.json,$(OLDER)) ## errors of Triton predictions, worst first: make triton-accuracy MEASURED=FOLDER
	$(BIN)/python -m presilicon.validate.triton_tables $(or $(MEASURED),$(error name a folder: make triton-accuracy MEASURED=FOLDER)) \
	  $(addprefix --cubins ,$(OLDER)) $(OPTIONS)

# Types and layers are checked on the wheel, since the package map (package-dir) exists only once it is installed.
wheel: $(STAMP) ## build sdist and wheel into build/dist
	@rm -rf build/dist $(CHECK) && mkdir -p build
	$(BIN)/python -m build --no-isolation --outdir build/dist . >build/wheel.log 2>&1 || { cat build/wheel.log; exit 1; }
	$(BIN)/python -m pip install --quiet --no-deps --no-compile --target $(CHECK) build/dist/*.whl

lint: wheel ## ruff, mypy and the layer contracts
	$(BIN)/ruff check .
	cd $(CHECK) && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/.mypy_cache -p presilicon
	cd $(CHECK) && PYTHONPATH=. $(CURDIR)/$(BIN)/lint-imports --config $(CURDIR)/pyproject.toml --no-cache --no-logo

format: $(STAMP) ## let ruff fix what it can
	$(BIN)/ruff check --fix .

typings: ## links for editors: the package as one tree (set MYPYPATH=typings)
	@rm -rf typings && mkdir -p typings/presilicon
	@cd typings/presilicon && ln -s ../../src/presilicon/* . && for floor in arch workloads mapping sim validate; do ln -s ../../$$floor .; done
	@rm -f typings/presilicon/__pycache__

docs: $(STAMP) ## build the documentation into site/
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: docs ## serve it, and rebuild on change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

constraints: $(STAMP) ## write what is installed now as the new constraints
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --all --exclude pip --exclude-editable | sed 's/+cpu$$//'; } >constraints.new
	mv constraints.new constraints.txt && touch $(STAMP)

clean: ## remove what builds, checks and the demo leave
	rm -rf build dist site typings demo-out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find src arch workloads mapping sim validate tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environment too
	rm -rf $(VENV)
