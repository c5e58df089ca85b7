"""The environment of `python -m fuzz`; not of tests that import from here, whose process has others in it."""

import os

# Read by libraries as they are loaded. One thread: a process that is forked from one with threads may wait for ever.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # its own takes address space ahead, behind which nothing shows
}
