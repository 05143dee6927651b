# Everything here needs python3.11 (or newer), pip and make; the first target to run installs the rest into $(VENV).
#
#   VENV      where to install
#   PYTHON    which interpreter to install with
#   TORCH     which torch pip installs, with any options of that one pip call:
#             make install TORCH="torch==2.13.0 --index-url URL"
#   PIP_ARGS  options of every pip call
#   BENCH     arguments of the benchmark: make bench BENCH="--cases unet-1024 --device cuda"
#
# After a change of TORCH or PYTHON, remove $(VENV) first.

VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
PIP_ARGS ?=

NUM_WORKERS ?= 2
BENCH ?=
PYTEST := $(VENV)/bin/python -m pytest
STAMP := $(VENV)/.installed
ZOO := $(VENV)/zoo

.DEFAULT_GOAL := help
.PHONY: help install zoo-install demo test test-all test-fast test-gpu fuzz zoo bench bench-gpu doctest lint format docs clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r name text; do \
		printf '%-12s%s\n' "$$name" "$$text"; done

install: $(STAMP)  ## install streamplan and its tools into $(VENV), once and when pyproject.toml changes

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; v_ok = sys.version_info >= (3, 11); \
		sys.exit(0 if v_ok else f"streamplan needs Python 3.11 or newer; $(PYTHON) is {v}: set PYTHON")'
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) $(TORCH)
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## run the quickstart example
	$(VENV)/bin/python examples/quickstart.py

test: zoo-install lint docs doctest  ## every kind of check with small draws, some 12 minutes on two cores
	$(PYTEST) -n $(NUM_WORKERS) -m "not gpu and not zoo and not fuzz and not more"

test-all: zoo-install lint docs doctest fuzz  ## every check with the stated counts, the fuzz and the zoo included
	$(PYTEST) -n $(NUM_WORKERS) -m "not gpu and not fuzz" --hypothesis-profile=all

test-fast: $(STAMP)  ## tests alone, without the slow ones
	$(PYTEST) -n $(NUM_WORKERS) -m "not gpu and not zoo and not fuzz and not more and not slow"

test-gpu: $(STAMP)  ## the tests that need a CUDA device; skipped where there is none
	$(PYTEST) -m gpu tests

fuzz: $(STAMP)  ## 5,000 random nets with either halo policy, all of torch, all bad values; takes about 35 minutes on two cores
	$(PYTEST) -n $(NUM_WORKERS) -m fuzz --hypothesis-profile=fuzz tests/test_fuzz.py tests/test_carried_halos.py tests/module/test_threads.py \
		tests/module/test_silent_changes.py tests/module/test_bad_values.py tests/module/test_torch_walk.py

zoo-install: $(ZOO)/.installed  ## install the public nets that tests stream into $(VENV)/zoo, if pip can

$(ZOO)/.installed: tests/zoo/requirements.txt $(STAMP)
	@if $(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) --retries 1 --no-deps --upgrade --target $(ZOO) \
		--requirement $<; then touch $@; else \
		echo "zoo-install: pip cannot install the public nets, so the tests of tests/zoo/test_public_nets.py are skipped"; fi

zoo: $(STAMP)  ## plan and verify every network of MONAI and write docs/zoo.md; takes some ten minutes
	$(VENV)/bin/python -W ignore -m tests.zoo.run --write docs/zoo.md

bench: $(STAMP)  ## measure training steps against the plain nets, checkpointing and lightstream; takes hours
	$(VENV)/bin/python -m pip install --quiet $(PIP_ARGS) --editable '.[bench]'
	$(VENV)/bin/python -m benchmarks.run $(BENCH)

bench-gpu: $(STAMP)  ## the benchmark's cases for GPUs, on the CUDA device there is
	$(VENV)/bin/python -m benchmarks.run --device cuda $(BENCH)

doctest: $(STAMP)  ## the examples in docstrings
	$(PYTEST) --doctest-modules src/streamplan --ignore-glob='*_kernels.py'  # they import Triton

lint: $(STAMP)  ## formatting, lint, types and layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(STAMP)  ## format the code and fix what ruff can fix
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix --exit-zero .

docs: $(STAMP)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

clean:  ## remove what the other targets made, except $(VENV)
	rm -rf site dist build demo-output whole_slide
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path './$(VENV)' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
