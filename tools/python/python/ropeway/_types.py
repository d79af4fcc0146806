"""Types of what the compiled part gives."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple, Union

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

Single = Tuple[Array, Optional[NDArray[np.float32]], Optional[List[Tuple[int, int]]]]
"""The vectors of one text `[vectors, width]`, their scales (int8), their spans (chunks)."""

Stacked = Tuple[Array, Optional[NDArray[np.float32]]]
"""One vector per text `[texts, width]`, and their scales (int8)."""

Results = Tuple[Optional[Stacked], List[Union[Single, BaseException]]]
"""One vector per text up to a text that has something else, and what the others have."""
