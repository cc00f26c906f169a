# Two commands do everything on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
JOBS   ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check validate bench format lint types layers clean

help:
	@echo "make demo    install and run the main job: DeepSeek-V3 on 2,048 H800, report in out/"
	@echo "make test    install and run every check (format, lint, types, layers, tests, doctests, README, notebooks)"
	@echo "make check   the fast part of make test"
	@echo "make validate  run every published figure and long page (some minutes); ARGS=--force-regen writes what they say"
	@echo "make bench   install and run the benchmarks"
	@echo "make format  rewrite the code in the house format"
	@echo "make clean   remove what the other targets made"

$(VENV)/run.stamp: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

demo: $(VENV)/run.stamp
	@mkdir -p out
	$(BIN)/ffsim run topologies/h800-2048.yaml workloads/deepseek-v3-pretrain.yaml --report out/deepseek-v3.html --trace out/deepseek-v3.trace.json

test: lint types layers
	$(BIN)/pytest -n $(JOBS) -m "not exhaustive"

validate: $(VENV)/dev.stamp
	$(BIN)/pytest -m exhaustive $(ARGS)

check: lint types layers
	$(BIN)/pytest -n $(JOBS) -m "not slow"

bench: $(VENV)/dev.stamp
	$(BIN)/pytest benchmarks --benchmark-enable --benchmark-columns=min,median,stddev,rounds --benchmark-sort=name

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

layers: $(VENV)/dev.stamp
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) out build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .benchmarks
