"""Short names for the types of numpy arrays; shapes and units are said where an array is."""

import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]  # of any width
FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]
