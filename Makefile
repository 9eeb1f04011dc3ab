# Two commands do everything on a fresh machine: `make demo` and `make test`.
.PHONY: demo demo-results evidence test lint docs benchmarks rehearsal compatibility

PYTHON ?= python3
VENV := .venv
INSTALL := $(VENV)/bin/pip install --quiet --constraint constraints.txt

# Reproduces the paper's Table 1 on scikit-learn's digits, in minutes.
demo: $(VENV)/.lab
	$(VENV)/bin/eigengrad reproduce table1 --seeds 3 --threads 1

# The same into results/digits and README's table: what a change that moves the last bits needs.
demo-results: demo
	$(VENV)/bin/python -m eigengrad_lab.report.readme runs

# Tables 1 and 2 on all of CIFAR-10, in hours; interrupted or out of time, the same command goes on from the records.
CIFAR10 ?= cifar10
HOURS ?= 8
MODEL ?= small
EVIDENCE = --data $(CIFAR10) --model $(MODEL) --recipe fast --epochs 4 --amp bf16 --channels-last --seeds 3 --threads 1 \
	--hours $(HOURS) --output results/cifar10
evidence: $(VENV)/.lab
	$(VENV)/bin/eigengrad reproduce table1 --group-sizes 4 16 64 $(EVIDENCE)
	$(VENV)/bin/eigengrad reproduce table2 $(EVIDENCE)

test: $(VENV)/.test
	$(VENV)/bin/python -m pytest -n auto --dist loadgroup

lint: $(VENV)/.test
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run --Werror $$(find native -name '*.[ch]pp')

# The site, from a fresh clone, with every example run: docs/_build/index.html.
docs: $(VENV)/.docs
	$(VENV)/bin/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build
	$(VENV)/bin/python docs/sitekit/links.py docs/_build

# A release without the upload: builds, checks, and installs from an index on this machine.
rehearsal: $(VENV)/.release
	release/rehearsal.sh

# By hand: the short tests on other versions of torch, some of which come with gigabytes of CUDA.
compatibility:
	$(PYTHON) release/compatibility.py

# Performance claims, ours and the rival's in the same run; writes results/*.json.
benchmarks: $(VENV)/.lab
	$(VENV)/bin/python -m benchmarks.eigh
	$(VENV)/bin/python -m benchmarks.whitening
	$(VENV)/bin/python -m benchmarks.matrix_functions
	$(VENV)/bin/python -m benchmarks.training_step
	$(VENV)/bin/python -m benchmarks.throughput
	$(VENV)/bin/python -m benchmarks.eigsh
	$(VENV)/bin/python -m benchmarks.spd
	$(VENV)/bin/python -m benchmarks.accuracy
	$(VENV)/bin/python -m benchmarks.gaps
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

# What an extra names, without building the kernel again.
$(VENV)/.test $(VENV)/.docs $(VENV)/.release: $(VENV)/.%: $(VENV)/.lab
	$(VENV)/bin/python release/requirements.py $* > $@.txt
	$(INSTALL) --requirement $@.txt
	@touch $@
