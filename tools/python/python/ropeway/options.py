"""The engine's own options of one text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping, Optional, Sequence, Tuple, Union

Chunks = Union[str, int, Sequence[Tuple[int, int]]]

_COUNTS = ("dimensions", "window", "overlap")


@dataclass(frozen=True)
class Options:
    """How a text is embedded. Every field has the engine's own default.

    It can be pickled, compared and hashed; ``adapters`` and ``chunks`` are kept as tuples.
    """

    task: Optional[str] = None
    """A task of the model (its adapter and its prompt), or the name of an added adapter."""
    adapters: Union[Mapping[str, float], Tuple[Tuple[str, float], ...], None] = None
    """Weights of a mixture of adapters, by name; empty: the base weights without a prompt."""
    prompt: Optional[str] = None
    """Put before the text in place of the task's own; ``""`` is none."""
    dimensions: Optional[int] = None
    """Keeps so many dimensions, before normalising; a size that the model was trained for."""
    any_dimensions: bool = False
    """Whether ``dimensions`` may be any size."""
    pooling: Optional[str] = None
    """``mean``, ``cls``, ``lasttoken``, ``max``, ``mean_sqrt_len_tokens``, ``weightedmean`` or ``none``."""
    normalize: Optional[bool] = None
    """Whether vectors are divided by their Euclidean norm; None: as the model says."""
    truncate: bool = True
    """Whether a text longer than the model's limit is cut there, not refused."""
    chunks: Optional[Chunks] = None
    """Late chunking: ``"sentences"``, a number of tokens, or ``(start, end)`` pairs in code points."""
    window: Optional[int] = None
    """Tokens of the windows that a long document goes through."""
    overlap: Optional[int] = None
    """Tokens by which windows overlap."""
    encoding: str = "float32"
    """``float32``, ``float16``, ``int8`` or ``ubinary``."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if value is not None:
                _check_count(name, value)
        if isinstance(self.adapters, Mapping):
            object.__setattr__(self, "adapters", tuple(self.adapters.items()))
        if isinstance(self.chunks, bool):
            raise TypeError("chunks is a bool; wanted 'sentences', a number of tokens or (start, end) pairs")
        if isinstance(self.chunks, int):
            _check_count("chunks", self.chunks)
        elif self.chunks is not None and not isinstance(self.chunks, str):
            spans = tuple((int(start), int(end)) for start, end in self.chunks)
            for start, end in spans:
                _check_count("the start of a span", start)
                _check_count("the end of a span", end)
            object.__setattr__(self, "chunks", spans)


def _check_count(name: str, value: object) -> None:
    from .errors import SettingError

    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} is of type {type(value).__name__}; wanted int")
    if not 0 <= value < 1 << 63:
        raise SettingError(f"{name} is {value}; wanted 0 or more, below 2**63")
