"""The run-length encoding of Label Studio's brush, as its SDK reads it (label_studio_sdk/converter/brush.py).

The bits of a byte stream, the highest of each byte first: how many values there are (32 bits), the bits of a value - 1
(5), four lengths of counts - 1 (4 each); then runs: 1, which of the four lengths (2), how many values - 1 (as many bits
as that says), and the value. The values are those of an RGBA image, row by row: a pixel is four of them.
"""

import numpy as np

from pplfast.arrays import BoolArray, Int64Array

CHANNELS = 4
VALUE_BITS = 8
COUNT_BITS = np.array([3, 4, 8, 16])  # the SDK's own choice
PAINTED = 255


def encode_brush(mask: BoolArray) -> bytes:
    """Of a mask, bool (H, W), with fewer than 2**30 pixels."""
    flat = mask.ravel()
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    starts = np.concatenate([[0], ends[:-1]])
    counts = (ends - starts) * CHANNELS
    values = np.where(flat[starts], PAINTED, 0)
    longest = 1 << int(COUNT_BITS[-1])
    parts = -(-counts // longest)  # of a run that is longer than any count can say
    counts, values = np.repeat(counts, parts), np.repeat(values, parts)
    last = np.cumsum(parts) - 1
    counts[last] -= (parts - 1) * longest
    whole = np.ones(len(counts), np.bool_)
    whole[last] = False
    counts[whole] = longest
    which = np.searchsorted(1 << COUNT_BITS, counts)
    bits = COUNT_BITS[which]
    runs = (((4 | which) << bits | counts - 1) << VALUE_BITS) | values
    head = [(flat.size * CHANNELS, 32), (VALUE_BITS - 1, 5), *((int(length) - 1, 4) for length in COUNT_BITS)]
    numbers = np.concatenate([[number for number, _ in head], runs])
    lengths = np.concatenate([[length for _, length in head], 3 + bits + VALUE_BITS])
    return _packed(numbers, lengths)


def _packed(numbers: Int64Array, lengths: Int64Array) -> bytes:
    """The numbers one after another, each in so many bits; 0 to the end of the last byte."""
    ends = np.cumsum(lengths)
    shifts = np.repeat(ends, lengths) - np.arange(ends[-1]) - 1
    return np.packbits((np.repeat(numbers, lengths) >> shifts & 1).astype(np.uint8)).tobytes()
