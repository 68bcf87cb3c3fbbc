# Every target makes the virtual environment first if it is missing or the lock changed.
# The newest of these that starts (a name on the path may be pyenv's, of a Python not chosen) and that
# the lock is for: Debian 12's 3.11.2 is too old for packages of the documentation.
FITS   := import sys; sys.exit(not (3, 11, 5) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11; do \
    $$python -c '$(FITS)' 2>/dev/null && echo $$python && break; done)
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   ?= demo
# Processes that take the test files, one at a time; more need 3 GB of memory each.
TESTERS ?= 2
# A laptop's own Ray, never a cluster this machine happens to belong to; and the same on a machine
# with a GPU, where the two workers of the demo would want two.
LOCAL  := RAY_ADDRESS=local CUDA_VISIBLE_DEVICES=
# faults.kills is not among them: it needs the demo's dataset, and hours.
BENCHES := compute.evaluator compute.head compute.losses compute.audit data.loader compute.train_step

# What takes 20 seconds and more is listed at the end.
SIDE_BY_SIDE := -n $(TESTERS) --dist loadfile --no-loadscope-reorder --durations 50 --durations-min 20

.DEFAULT_GOAL := help
.PHONY: help install demo docs test test-fast test-gpu test-cluster check bench results clean-demo

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/installed ## make .venv, which every other target makes too

demo: $(VENV)/installed ## shard, train, evaluate drawn pictures: no GPU, 9 to 20 min
	@$(LOCAL) $(BIN)/python jobs/make_demo_dump.py --output $(DEMO)/dump
	@$(LOCAL) $(BIN)/python jobs/shard_openimages.py --annotations $(DEMO)/dump --images $(DEMO)/dump/images \
	    --output $(DEMO)/dataset --images-per-shard 250
	@$(LOCAL) $(BIN)/python jobs/train_openimages.py --preset demo --dataset $(DEMO)/dataset --storage $(DEMO)/runs --run demo
	@$(LOCAL) $(BIN)/python jobs/evaluate_openimages.py --checkpoint $(DEMO)/runs/demo --dataset $(DEMO)/dataset --split test

test: $(VENV)/installed ## run the test suite
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: $(VENV)/installed ## run the tests that start no Ray
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m 'not ray and not cluster and not gpu'

test-gpu: $(VENV)/installed ## run what only a GPU shows
	@$(BIN)/python -m pytest -rs -m gpu tests/test_gpu.py

test-cluster: $(VENV)/installed ## run the jobs on hosts made of network namespaces (root)
	@$(BIN)/python -m pytest -rs -m cluster tests/hosts

check: $(VENV)/installed ## lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(VENV)/installed ## build the site in site/; a broken link is an error
	@$(BIN)/mkdocs build --strict

bench: $(VENV)/installed ## measure the documentation's claims as ratios (an hour)
	@for bench in $(BENCHES); do echo "== $$bench"; $(BIN)/python -m benchmarks.$$bench || exit 1; done
	@for part in keep shrink; do echo "== sharding $$part"; $(BIN)/python -m benchmarks.data.sharding $$part || exit 1; done
	@for part in ratio size; do echo "== relabel $$part"; $(BIN)/python -m benchmarks.data.relabel $$part || exit 1; done

results: $(VENV)/installed ## run the studies of docs/results.md (hours; they go on)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(LOCAL) $(BIN)/python -m benchmarks.quality.results $(if $(STUDIES),--only $(STUDIES))

clean-demo: ## remove demo/, not what MLflow has
	rm -rf $(DEMO)

$(VENV)/installed: requirements.lock pyproject.toml
	@$(or $(PYTHON),false) -c '$(FITS)' || { echo "error: no Python 3.11.5 or later, 3.12 or 3.13 is on the path. Fix: install one, or pass PYTHON=..." >&2; exit 1; }
	@echo "installing about 7 GB of exact versions into $(VENV): minutes, up to ten on a slow line or disk; pip's lines:"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@
