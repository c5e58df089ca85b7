# make demo: the whole chain on a data set made on the spot -> runs/demo/report.html and runs/demo/summary.json
# make test: all tests.   Minutes: make test-kill, make test-kill-label: a chain and a labelling job that are killed;
#   make test-multinode: training on two hosts (network namespaces; needs root).
# make clean: remove .venv, runs and build folders.   What needs .venv sets it up first, once.
#
# Without an NVIDIA GPU torch's CPU build is installed: PyPI's torch would pull gigabytes of CUDA libraries.
# Another build: make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cu126" DALI=cuda12

PYTHON ?= python3
DALI ?= cuda13

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# All pins but these two, which depend on the build of torch.
PINS := $(VENV)/constraints.txt
TORCH_PIN := $(shell grep '^torch==' constraints.txt)
TRITON_PIN := $(shell grep '^triton==' constraints.txt)
CPU_INDEX := https://download.pytorch.org/whl/cpu

.PHONY: demo test test-kill test-kill-label test-multinode clean

demo: $(STAMP)
	$(BIN)/pplfast data demo --out runs/demo/data
	$(BIN)/pplfast run --data runs/demo/data --recipe demo --out runs/demo

test: $(STAMP)
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest
	@# A process that sees a GPU runs only what was written for one: the other tests place their tensors on the CPU.
	if nvidia-smi -L >/dev/null 2>&1; then $(BIN)/python -m pytest tests/test_gpu_*.py tests/test_kernels_gpu.py; fi

# Minutes: pplfast run killed in each of its steps.
test-kill: $(STAMP)
	$(BIN)/python tests/kill_chain.py

# Minutes, as root: training on two hosts that are network namespaces.
test-multinode: $(STAMP)
	$(BIN)/python -m pytest tests/multinode.py -rs

# 20,000 small images on two ranks that are killed 20 times: several minutes.
test-kill-label: $(STAMP)
	$(BIN)/python -m pplfast.benchmarks.label_kill --out runs/label_kill.json

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	grep -v -E '^(torch|triton)==' constraints.txt > $(PINS)
	@echo "Installing the pinned dependencies into $(VENV): a few minutes, once"
	$(PIP) -c $(PINS) setuptools wheel
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
	$(PIP) -c $(PINS) -e '.[$(DALI),test,docs,dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info .pytest_cache
