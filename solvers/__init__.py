"""Pure solvers: arrays in, arrays out.

Every function works on the library of its arguments (NumPy, CuPy, torch or any other that follows
the array API). Responses are matrices of shape (channels, samples) throughout.
"""

from typing import Any

Array = Any
"""An array of any library that follows the array API; the standard has no type for it."""
