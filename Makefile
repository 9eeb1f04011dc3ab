# Two commands do everything on a fresh machine: `make demo` and `make test`.
.PHONY: demo test lint benchmarks

PYTHON ?= python3
VENV := .venv
INSTALL := $(VENV)/bin/pip install --quiet --constraint constraints.txt

# Reproduces the paper's Table 1 on scikit-learn's digits, in minutes.
demo: $(VENV)/.lab
	$(VENV)/bin/eigengrad reproduce table1 --seeds 3

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest -n auto --dist loadgroup

lint: $(VENV)/.test
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# Performance claims, ours and the rival's in the same run; writes results/*.json.
benchmarks: $(VENV)/.lab
	$(VENV)/bin/python -m benchmarks.eigh
	$(VENV)/bin/python -m benchmarks.whitening
	$(VENV)/bin/python -m benchmarks.matrix_functions
	$(VENV)/bin/python -m benchmarks.training_step
	$(VENV)/bin/python -m benchmarks.throughput
	$(VENV)/bin/python -m benchmarks.accuracy
	$(VENV)/bin/python -m benchmarks.evaluation --reduced
	for dtype in float32 float64; do for threads in 1 2; do \
		$(VENV)/bin/python -m benchmarks.native $$dtype $$threads || exit 1; done; done
	$(VENV)/bin/python -m benchmarks.native
	$(VENV)/bin/python -m benchmarks.calls --instructions

$(VENV)/.lab: pyproject.toml constraints.txt native/CMakeLists.txt $(wildcard native/*.hpp native/*.cpp)
	$(PYTHON) -m venv $(VENV)
	@echo "Installing eigengrad and its laboratory into $(VENV): a few minutes, once."
	$(INSTALL) --editable '.[lab]'
	@touch $@

$(VENV)/.test: $(VENV)/.lab
	$(INSTALL) --editable '.[test]'
	@touch $@
