"""Fuzzing of everything that pplfast reads: valid contents, damaged at random, through the reader that a command uses.
Whatever comes of it must be an acceptance or one clean line.

    mutate.py            bytes and text
    trees.py             JSON and TOML
    binary.py            npz, npy, pickles, safetensors, .pth; pictures.py: PNG, JPEG: below their lengths and sums
    tars.py, columns.py  tars; Parquet (in the protocol of thrift.py) and Arrow: the same
    pickles.py           contents that are hostile
    readers_*.py         the table of readers: seeds, how they are damaged, how they are read; table.py: all of them
    outcome.py           what became of one input, in the process that reads it
    workers.py           processes, so that a crash, a hang and an allocation are each put down to their input
    planted.py           readers that are wrong on purpose, for the tests of this
    __main__.py          `make test-fuzz`; one_thread.py: its environment; printed.py: what it says and keeps

An input follows from the seed, the reader's name and its number (but for times that a valid file holds).
"""
