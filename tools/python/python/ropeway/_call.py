"""One call of ``encode``: from the words of sentence-transformers to the engine's options, and back to arrays."""

from __future__ import annotations

import collections.abc
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple, TypedDict, Union

import numpy as np

from ._types import Array, Results, Single
from .errors import SettingError
from .options import Options, _check_count

Spans = Sequence[Tuple[int, int]]
TaskWord = Union[str, None, List[Optional[str]]]
SizeWord = Union[int, None, List[Optional[int]]]

if TYPE_CHECKING:
    import torch

    Output = Union[Array, List[Any], Tuple[Any, ...], torch.Tensor]


class SharedWords(TypedDict, total=False):
    task: TaskWord
    prompt_name: TaskWord
    prompt: TaskWord
    adapters: Union[Mapping[str, float], None, List[Optional[Mapping[str, float]]]]
    normalize: Union[bool, None, List[Optional[bool]]]
    normalize_embeddings: bool
    truncate: bool
    precision: str
    batch_size: Optional[int]
    show_progress_bar: Optional[bool]


class ArrayWords(SharedWords, total=False):
    """The keywords with which ``encode`` gives one array."""

    dimensions: Optional[int]
    truncate_dim: Optional[int]


class Words(SharedWords, total=False):
    """The keywords of ``encode`` and ``aencode``; ``tools/python/README.md`` has a table of them.

    Those that may be a list take one value per text that way.
    """

    dimensions: SizeWord
    truncate_dim: SizeWord
    late_chunking: Union[bool, int, str, List[Union[bool, int, str]]]
    spans: Union[Spans, None, List[Optional[Spans]]]
    options: Union[Options, None, List[Options]]
    pooling: Optional[str]
    window: Optional[int]
    overlap: Optional[int]
    output_value: str
    convert_to_numpy: bool
    convert_to_tensor: bool
    return_scales: bool
    return_spans: bool
    on_error: str


WORDS = frozenset(Words.__annotations__)

# Words that may be a list, of one value per text.
PER_TEXT = (
    "task",
    "prompt_name",
    "prompt",
    "adapters",
    "dimensions",
    "truncate_dim",
    "normalize",
    "late_chunking",
    "spans",
    "options",
)

# The engine's encoding of each precision. `binary` has the bits of `ubinary`, less 128.
ENCODINGS = {
    "float32": "float32",
    "float16": "float16",
    "int8": "int8",
    "ubinary": "ubinary",
    "binary": "ubinary",
}

OUTPUT_VALUES = ("sentence_embedding", "token_embeddings")
ON_ERROR = ("raise", "return")


def one_of(name: str, value: object, known: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise SettingError(f"{name} is {value!r:.60}; wanted one of {', '.join(known)}")
    return value


class Call:
    """What was asked for."""

    def __init__(self, prompts: Mapping[str, str], sentences: Union[str, Sequence[str]], words: Words) -> None:
        unknown = sorted(words.keys() - WORDS)
        if unknown:
            raise TypeError(f"encode() has no keyword {unknown[0]!r}; it has {', '.join(sorted(WORDS))}")
        self.single = isinstance(sentences, str)
        if isinstance(sentences, (bytes, collections.abc.Mapping)) or not hasattr(sentences, "__iter__"):
            raise TypeError(f"sentences is of type {type(sentences).__name__}; wanted str or a list of str")
        self.texts: List[str] = [sentences] if isinstance(sentences, str) else list(sentences)
        self.precision = one_of("precision", words.get("precision", "float32"), tuple(ENCODINGS))
        output_value = one_of("output_value", words.get("output_value", "sentence_embedding"), OUTPUT_VALUES)
        self.tokens = output_value == "token_embeddings"
        self.keep_errors = one_of("on_error", words.get("on_error", "raise"), ON_ERROR) == "return"
        self.tensor = bool(words.get("convert_to_tensor", False))
        self.listed = not self.tensor and not words.get("convert_to_numpy", True)
        self.return_scales = bool(words.get("return_scales", False))
        self.return_spans = bool(words.get("return_spans", False))
        self.show_progress = bool(words.get("show_progress_bar", False))
        self.batch_size = words.get("batch_size")
        if self.batch_size is not None:
            _check_count("batch_size", self.batch_size)
        self.options = self._options(prompts, words)

    def _options(self, prompts: Mapping[str, str], words: Words) -> Union[Options, List[Options]]:
        given: Dict[str, Any] = {**words}
        lists = {name: given[name] for name in PER_TEXT if isinstance(given.get(name), list)}
        if self.single:
            # Of one text a list can only be its spans.
            lists.pop("spans", None)
        for name, values in lists.items():
            if len(values) != len(self.texts):
                wanted = "one value" if self.single else "a value for each"
                raise SettingError(f"{name} has {len(values)} values for {len(self.texts)} texts; give {wanted}")
        if not self.texts:
            given = {name: value for name, value in given.items() if name not in lists}
        if not (lists and self.texts):
            return self._one(prompts, given)
        # Texts with the same options share them, which the engine's side reads once.
        known: Dict[Options, Options] = {}
        rows = []
        for number in range(len(self.texts)):
            row = self._one(prompts, {**given, **{name: values[number] for name, values in lists.items()}})
            rows.append(known.setdefault(row, row))
        return rows

    def _one(self, prompts: Mapping[str, str], words: Dict[str, Any]) -> Options:
        """The options that words without lists mean."""
        if words.get("options") is not None:
            both = sorted(words.keys() & set(PER_TEXT) - {"options"})
            if both:
                raise SettingError(f"both options and {both[0]} are given; leave one out")
            if not isinstance(words["options"], Options):
                raise TypeError(f"options is of type {type(words['options']).__name__}; wanted ropeway.Options")
            given: Options = words["options"]
            return given
        prompt, name = words.get("prompt"), words.get("prompt_name")
        if prompt is None and name is not None:
            if name not in prompts:
                known = ", ".join(sorted(prompts)) or "none"
                raise SettingError(f"the model has no prompt {name!r:.60}; it has {known}")
            prompt = prompts[name]
        dimensions, truncate_dim = words.get("dimensions"), words.get("truncate_dim")
        if dimensions is not None and truncate_dim is not None:
            raise SettingError("both dimensions and truncate_dim are given; leave one out")
        normalize = words.get("normalize")
        if normalize is None and words.get("normalize_embeddings"):
            normalize = True
        pooling = words.get("pooling")
        if self.tokens:
            pooling, normalize = "none", bool(normalize)
        return Options(
            task=words.get("task"),
            adapters=words.get("adapters"),
            prompt=prompt,
            dimensions=truncate_dim if dimensions is None else dimensions,
            any_dimensions=truncate_dim is not None,
            pooling=pooling,
            normalize=normalize,
            truncate=words.get("truncate", True),
            chunks=_chunks(words.get("late_chunking", False), words.get("spans")),
            window=words.get("window"),
            overlap=words.get("overlap"),
            encoding=ENCODINGS[self.precision],
        )

    def options_of(self, number: int) -> Options:
        """The options of a text."""
        return self.options[number] if isinstance(self.options, list) else self.options

    def _of_no_texts(self, width: int) -> Results:
        """As the engine gives them: ``binary`` is made of ``ubinary`` like that of any text."""
        options = self.options
        if self.tokens or not isinstance(options, Options) or options.chunks is not None:
            return None, []
        width = options.dimensions or width
        if options.encoding == "ubinary":
            return (np.empty((0, (width + 7) // 8), np.uint8), None), []
        scales = np.empty(0, np.float32) if options.encoding == "int8" else None
        return (np.empty((0, width), options.encoding), scales), []

    def finish(self, results: Results, width: int) -> Output:
        """What the caller gets. ``width`` is that of a model's full vector, for the result of no texts."""
        block, rest = results if self.texts else self._of_no_texts(width)
        scales: Any
        spans: Any = None
        out: Any
        if block is not None and not rest:
            out, scales = self._array(block[0]), block[1]
            if self.single:
                out, scales = out[0], None if scales is None else scales[0]
            elif self.listed:
                out = list(out)
        else:
            rows = [] if block is None else [(row[None], None, None) for row in block[0]]
            listed: List[Union[Single, BaseException]] = [*rows, *rest]
            out = [self._row(row) for row in listed]
            scales = [None if isinstance(row, BaseException) else row[1] for row in listed]
            if block is not None and block[1] is not None:
                scales[: len(block[1])] = block[1]
            spans = [None if isinstance(row, BaseException) else row[2] for row in listed]
            if self.single:
                out, scales, spans = out[0], scales[0], spans[0]
        more = [extra for wanted, extra in ((self.return_scales, scales), (self.return_spans, spans)) if wanted]
        return (out, *more) if more else out

    def _row(self, row: Union[Single, BaseException]) -> Any:
        if isinstance(row, BaseException):
            return row
        several = self.tokens or row[2] is not None
        return self._array(row[0] if several else row[0][0])

    def _array(self, array: Array) -> Any:
        if self.precision == "binary":
            array = (array ^ 0x80).view(np.int8)
        if not self.tensor:
            return array
        import torch

        return torch.from_numpy(array)


def _chunks(late_chunking: object, spans: Optional[Spans]) -> Union[str, int, Spans, None]:
    if spans is not None:
        return tuple(spans)
    if late_chunking is False or late_chunking is None:
        return None
    if late_chunking is True:
        return "sentences"
    if isinstance(late_chunking, (int, str)):
        return late_chunking
    raise TypeError(f"late_chunking is of type {type(late_chunking).__name__}; wanted bool, 'sentences' or int")
