"""The engine, as Python has it."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Deque, Dict, List, Mapping, Optional, Sequence, Union, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _ropeway
from ._call import ArrayWords, Call, Words
from ._types import Array, Results, Single
from .errors import OverloadedError

if TYPE_CHECKING:
    from os import PathLike

    from typing_extensions import Unpack

# What one `aencode` has in the service at the same time, in passes, so that a long list leaves room in the queue for
# others; the queue has room for 32.
IN_FLIGHT_PASSES = 8

# Characters of text that are taken for a token when that is measured out.
TOKEN_CHARACTERS = 4

# The tasks and prompts that queries and documents take, the first that the model has.
QUERY_TASKS = ("retrieval.query", "query", "search_query")
DOCUMENT_TASKS = ("retrieval.passage", "document", "passage", "corpus", "search_document")


def known_task(tasks: Sequence[str], prompts: Mapping[str, str]) -> Optional[str]:
    """The first of these that the model has."""
    return next((task for task in tasks if task in prompts), None)


@dataclass(frozen=True)
class Info:
    """What an engine is, as of now. Sizes in bytes, lengths in tokens."""

    path: str
    device: str
    on_gpu: bool
    fallback_reason: Optional[str]
    precision: str
    threads: int
    batch_tokens: int
    dimensions: int
    matryoshka: List[int]
    max_tokens: int
    tasks: List[str]
    adapters: List[str]
    weight_bytes: int
    arena_bytes: int
    truncated: int
    service: Optional[Dict[str, int]]
    """What the service of ``aencode`` did so far, in requests, and how many are ``queued`` now; None before the first."""


class Engine:
    """A model, opened. Threads may share it; a forked child may not use its parent's.

    ``model`` is a folder or a hub id (``owner/name``). ``device`` is ``auto``, ``cpu``, ``cuda`` or ``cuda:N``;
    ``precision`` is ``f32`` (the CPU's default), ``bf16`` (the GPU's), ``f16`` (GPU) or ``int8`` (CPU). ``batch_tokens``
    bounds the tokens of a pass and with them the memory. ``numerics``, ``kernels`` and ``merge`` are those of the command
    line. ``offline`` takes a hub's model from the cache only.
    """

    def __init__(
        self,
        model: Union[str, "PathLike[str]"],
        *,
        device: str = "auto",
        precision: Optional[str] = None,
        numerics: Optional[str] = None,
        kernels: Optional[str] = None,
        threads: Optional[int] = None,
        batch_tokens: Optional[int] = None,
        concurrency: Optional[int] = None,
        merge: Sequence[str] = (),
        offline: bool = False,
    ) -> None:
        self._engine = _ropeway.Engine(
            model,
            device=device,
            precision=precision,
            numerics=numerics,
            kernels=kernels,
            threads=threads,
            batch_tokens=batch_tokens,
            concurrency=concurrency,
            merge=list(merge),
            offline=offline,
        )
        self._prompts = self._engine.prompts()
        info = self.info
        self._width = info.dimensions
        self._batch_tokens = info.batch_tokens
        self._serving = False

    @overload
    def encode(self, sentences: Union[str, Sequence[str]], **words: Unpack[ArrayWords]) -> Array: ...
    @overload
    def encode(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any: ...
    def encode(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any:
        """Embeds one text or many.

        Returns an array ``[dimensions]`` for a ``str`` and ``[texts, dimensions]`` for a list (packed bits:
        ``dimensions / 8``). With ``output_value="token_embeddings"``, late chunking or ``spans``: ``[tokens, dimensions]``
        or ``[chunks, dimensions]`` for each text, in a list. Texts whose vectors differ in width come as a list too.

        ``return_scales`` and ``return_spans`` make it a tuple, with the scales of int8 (``x ≈ values · scale``) and the
        ``(start, end)`` of the chunks behind. ``on_error="return"`` puts the exception of a bad text in its place in a
        list; else the first is raised. The GIL is free meanwhile.
        """
        if not words and isinstance(sentences, (str, list)):
            # The weights of a model throw all of this out of the processor's caches, where a line takes several times as long
            # as in a loop: the most frequent calls go without a `Call`.
            texts = [sentences] if isinstance(sentences, str) else sentences
            block, _ = self._engine.embed(texts, None, None, None, False)
            if block is not None:
                return block[0] if texts is sentences else block[0][0]
        call = Call(self._prompts, sentences, words)
        bar = _progress_bar(len(call.texts)) if call.show_progress else None
        try:
            progress = None if bar is None else _mover(bar)
            results = self._engine.embed(call.texts, call.options, call.batch_size, progress, call.keep_errors)
        finally:
            if bar is not None:
                bar.close()
        return call.finish(results, self._width)

    @overload
    async def aencode(self, sentences: Union[str, Sequence[str]], **words: Unpack[ArrayWords]) -> Array: ...
    @overload
    async def aencode(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any: ...
    async def aencode(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any:
        """As :meth:`encode`, for coroutines: what many of them ask for at the same time shares passes.

        A cancelled call is taken back, and what still waits of it is never computed. The first call starts the service
        and warms the engine up. ``batch_size`` and ``show_progress_bar`` have no effect.
        """
        call = Call(self._prompts, sentences, words)
        if not self._serving:
            await asyncio.get_running_loop().run_in_executor(None, self._engine.start_service)
            self._serving = True
        return call.finish(_stacked(call, await self._serve(call)), self._width)

    async def _serve(self, call: Call) -> List[Union[Single, BaseException]]:
        """What the service gives for each text. However this ends, it leaves nothing behind in the service."""
        loop = asyncio.get_running_loop()
        rows: List[Union[Single, BaseException]] = []
        waiting: Deque[_Waiting] = deque()
        room = IN_FLIGHT_PASSES * self._batch_tokens

        async def oldest() -> None:
            nonlocal room
            number = len(rows)
            try:
                rows.append(await waiting[0].future)
            except Exception as error:
                _number(error, number)
                # A wrong type is an error of the call, as in `encode`.
                if not call.keep_errors or isinstance(error, TypeError):
                    raise
                rows.append(error)
            room += waiting.popleft().tokens

        try:
            for number, text in enumerate(call.texts):
                one = _Waiting(loop.create_future(), tokens=_tokens(text))
                while waiting and room < one.tokens:
                    await oldest()
                while True:
                    try:
                        one.ticket = self._engine.submit(number, text, call.options_of(number), loop, one.future)
                    except OverloadedError:
                        # Others fill the queue. One's own that is done may have left room.
                        if not waiting:
                            raise
                        await oldest()
                        continue
                    except Exception as error:
                        one.future.set_exception(error)
                    break
                waiting.append(one)
                room -= one.tokens
            while waiting:
                await oldest()
        finally:
            for one in waiting:
                one.drop()
        return rows

    @overload
    def encode_query(self, sentences: Union[str, Sequence[str]], **words: Unpack[ArrayWords]) -> Array: ...
    @overload
    def encode_query(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any: ...
    def encode_query(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any:
        """As :meth:`encode`, with the model's task for queries where it has one and no other is named."""
        return self.encode(sentences, **self._with_task(QUERY_TASKS, words))

    @overload
    def encode_document(self, sentences: Union[str, Sequence[str]], **words: Unpack[ArrayWords]) -> Array: ...
    @overload
    def encode_document(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any: ...
    def encode_document(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any:
        """As :meth:`encode`, with the model's task for documents where it has one and no other is named."""
        return self.encode(sentences, **self._with_task(DOCUMENT_TASKS, words))

    @overload
    async def aencode_query(self, sentences: Union[str, Sequence[str]], **words: Unpack[ArrayWords]) -> Array: ...
    @overload
    async def aencode_query(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any: ...
    async def aencode_query(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any:
        """As :meth:`encode_query`, for coroutines."""
        return await self.aencode(sentences, **self._with_task(QUERY_TASKS, words))

    @overload
    async def aencode_document(self, sentences: Union[str, Sequence[str]], **words: Unpack[ArrayWords]) -> Array: ...
    @overload
    async def aencode_document(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any: ...
    async def aencode_document(self, sentences: Union[str, Sequence[str]], **words: Unpack[Words]) -> Any:
        """As :meth:`encode_document`, for coroutines."""
        return await self.aencode(sentences, **self._with_task(DOCUMENT_TASKS, words))

    def _with_task(self, tasks: Sequence[str], words: Words) -> Words:
        named = words.keys() & {"task", "prompt", "prompt_name", "adapters", "options"}
        task = known_task(tasks, self._prompts)
        if named or task is None:
            return words
        return {**words, "task": task}

    def similarity(self, embeddings1: ArrayLike, embeddings2: ArrayLike) -> NDArray[np.float32]:
        """Cosines ``[n, m]`` of ``[n, dimensions]`` and ``[m, dimensions]``; not for packed bits."""
        left, right = _unit(embeddings1), _unit(embeddings2)
        cosines: NDArray[np.float32] = left @ right.T
        return cosines

    def add_adapter(self, name: str, folder: Union[str, "PathLike[str]"]) -> None:
        """Loads a PEFT adapter, while other threads may embed; ``task=name`` or ``adapters={name: 1}`` selects it."""
        self._engine.add_adapter(name, folder)

    def remove_adapter(self, name: str) -> None:
        """Takes an adapter out that was added; calls that run keep it to their end."""
        self._engine.remove_adapter(name)

    @property
    def prompts(self) -> Dict[str, str]:
        """The prompts of the model's tasks, by name."""
        return dict(self._prompts)

    @property
    def info(self) -> Info:
        """What the engine is, and how many texts it cut so far (``truncated``)."""
        return Info(**self._engine.info())

    def __repr__(self) -> str:
        info = self.info
        return f"Engine({info.path!r}, device={info.device!r}, precision={info.precision!r})"

    def __reduce__(self) -> Any:
        raise TypeError("an Engine cannot be pickled; open one in each process")


@dataclass
class _Waiting:
    """A text that was handed to the service."""

    future: asyncio.Future[Single]
    tokens: int
    ticket: Optional[_ropeway.Ticket] = None

    def drop(self) -> None:
        if self.ticket is not None:
            self.ticket.cancel()
        if not self.future.cancel() and not self.future.cancelled():
            # Seen: asyncio need not report it.
            self.future.exception()


def _tokens(text: object) -> int:
    """About how many tokens a text has; the service refuses what is no text."""
    return len(text) // TOKEN_CHARACTERS + 1 if isinstance(text, str) else 1


def _number(error: BaseException, number: int) -> None:
    """Says which text an error belongs to."""
    if hasattr(error, "index"):
        error.index = number


def _stacked(call: Call, rows: List[Union[Single, BaseException]]) -> Results:
    """One array where every text has one vector of the same width."""
    singles = [row for row in rows if not isinstance(row, BaseException) and row[2] is None]
    if call.tokens or len(singles) < len(rows) or len({row[0].shape[1] for row in singles}) != 1:
        return None, rows
    scales = [row[1] for row in singles if row[1] is not None]
    arrays = np.concatenate([row[0] for row in singles])
    return (arrays, np.concatenate(scales) if scales else None), []


def _unit(embeddings: ArrayLike) -> NDArray[np.float32]:
    rows = np.atleast_2d(np.asarray(embeddings, dtype=np.float32))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    return unit


def _progress_bar(total: int) -> Any:
    try:
        # In a notebook it is a widget.
        from tqdm.auto import tqdm
    except ImportError:
        raise ModuleNotFoundError("show_progress_bar needs the package tqdm: pip install tqdm") from None
    return tqdm(total=total, desc="Texts", unit="text")


def _mover(bar: Any) -> Callable[[int], object]:
    return lambda done: bar.update(done - bar.n)
