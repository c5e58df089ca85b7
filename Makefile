# `make help` lists the targets. What needs .venv sets it up first, once.
#
# Without an NVIDIA GPU torch's CPU build is installed: PyPI's torch would pull gigabytes of CUDA libraries.
# Another build: make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126" DALI=cuda12

PYTHON ?= python3
DALI ?= cuda13

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TOOLS := $(VENV)/.tools
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# All pins but these two, which depend on the build of torch.
PINS := $(VENV)/constraints.txt
TORCH_PIN := $(shell grep '^torch==' constraints.txt)
TRITON_PIN := $(shell grep '^triton==' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo check lint types test-quick test test-rest docs test-fuzz test-kill test-kill-label test-kill-jobs test-shards test-changes test-memory test-one-writer test-multinode clean help

demo: $(STAMP) ## the whole chain on a data set made on the spot: runs/demo/report.html, runs/demo/summary.json (the default)
	$(BIN)/pplfast data demo --out runs/demo/data
	$(BIN)/pplfast run --data runs/demo/data --recipe demo --out runs/demo

# Side by side: mypy has nothing to do most of the time. Each prints its output when it is done, so that none is mixed.
check: $(STAMP) ## lint, types, and the tests that start no process: about a minute
	@$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target lint types test-quick

lint: $(STAMP) ## ruff: lint and format
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(STAMP) ## mypy, strict
	$(BIN)/python -m mypy

# One thread each: the tests' tensors are small.
test-quick: $(STAMP) ## the tests of a second or less that start no process; they fail if they start one
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" --numprocesses=2 --dist=loadfile

test: $(TOOLS) check ## all tests: check first, then the rest
	@$(MAKE) --no-print-directory test-rest

# Three on two cores: many wait. A file's tests stay in one process, since they share fixtures. A test that hangs ends its
# process (pyproject.toml), and with it the run.
test-rest: $(STAMP) ## what check leaves out: whole runs, launchers, killed jobs, timings
	CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow --numprocesses=3 --dist=loadfile --max-worker-restart=0
	@# A process that sees a GPU runs only what was written for one: the other tests place their tensors on the CPU.
	if nvidia-smi -L >/dev/null 2>&1; then $(BIN)/python -m pytest tests/test_gpu_*.py tests/test_kernels_gpu.py; fi

docs: $(STAMP) ## the site: build/site/index.html
	$(BIN)/python -m mkdocs build --strict

# Readers that are wrong on purpose show that it finds what it looks for (tests/test_fuzz.py).
test-fuzz: $(STAMP) ## minutes: COUNT=10000 damaged files into all that reads any; SEED=WORD gives the same ones again
	PYTHONPATH=tests $(BIN)/python -m fuzz --count $(or $(COUNT),10000) $(if $(SEED),--seed '$(SEED)')

test-kill: $(STAMP) ## minutes: pplfast run on 1 and 2 ranks, and killed in each of its steps
	$(BIN)/python tests/kill_chain.py

test-one-writer: $(STAMP) ## minutes: two trainings, then two runs, on one --out at the same time
	$(BIN)/python tests/one_writer.py

test-multinode: $(STAMP) ## minutes, as root: training on two hosts that are network namespaces
	$(BIN)/python -m pytest tests/multinode.py -rs

test-kill-label: $(STAMP) ## minutes: 20,000 small images on two ranks that are killed 20 times
	$(BIN)/python -m pplfast.benchmarks.job_kill --out runs/label_kill.json

test-kill-jobs: $(STAMP) ## minutes: every job on 2,000 small images on two ranks that are killed 10 times
	$(BIN)/python -m pplfast.benchmarks.job_kill --job all --images 2000 --kills 10 --out runs/job_kill.json

test-shards: $(STAMP) ## minutes: labels on a local object store, killed 6 times; reads that fail; a million images
	$(BIN)/python -m pplfast.benchmarks.shard_jobs equal
	$(BIN)/python -m pplfast.benchmarks.shard_jobs kill --images 2000 --kills 6
	$(BIN)/python -m pplfast.benchmarks.shard_jobs faults --images 1000
	$(BIN)/python -m pplfast.benchmarks.shard_jobs million

test-changes: $(STAMP) ## minutes: 10 of 1,000 images replaced, 10 labels corrected: 20 are done again in every job
	$(BIN)/python tests/changed_images.py

test-memory: $(STAMP) ## minutes: the whole chain on 60 photos, three of them of 27 megapixels, within 8 GiB
	$(BIN)/python tests/large_photos.py

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	grep -v -E '^(torch|triton)==' constraints.txt > $(PINS)
	@echo "Installing the pinned dependencies into $(VENV): a few minutes, once"
	$(PIP) -c $(PINS) setuptools wheel cython
	@# Its package asks for a Cython whose code does not compile for Python 3.13; by the one here it does for all.
	$(PIP) -c $(PINS) --no-build-isolation --no-deps pydensecrf2
ifdef TORCH
	$(PIP) $(TORCH)
else
	if nvidia-smi -L >/dev/null 2>&1; then $(PIP) -c $(PINS) $(TORCH_PIN); \
	else $(PIP) -c $(PINS) $(TORCH_PIN)+cpu 2>/dev/null || \
	  $(PIP) -c $(PINS) $(TORCH_PIN)+cpu --extra-index-url $(CPU_INDEX); fi
endif
	@# A CUDA build of torch has brought its own Triton.
	$(BIN)/python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec("triton"))' || \
	  $(PIP) $(TRITON_PIN)
	$(PIP) -c $(PINS) -e '.[$(DALI),lite,test,docs,dev]'
	touch $@

# The tools that labels are exported for: minutes to install, and nothing but the tests of the exports needs them.
$(TOOLS): $(STAMP)
	$(PIP) -c $(PINS) -e '.[tools]'
	touch $@

clean: ## remove .venv, runs, build folders and caches
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22
