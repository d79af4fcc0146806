"""What a program under ``mypy --strict`` does with the package; tools/python/check gives it to mypy, and nothing runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List

import ropeway
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import assert_type


def query(engine: ropeway.Engine, text: str) -> NDArray[Any]:
    return engine.encode_query(text, dimensions=64, task=None, normalize_embeddings=True)


def passages(engine: ropeway.Engine, texts: List[str]) -> NDArray[Any]:
    assert_type(engine.info.service, "Dict[str, int] | None")
    assert_type(engine.similarity(query(engine, "a"), query(engine, "b")).shape, "tuple[Any, ...]")
    return engine.encode(texts, task=["retrieval.query"] * len(texts), precision="int8")


async def served(engine: ropeway.Engine, text: str) -> NDArray[Any]:
    return await engine.aencode(text, adapters={"separation": 0.5})


def chunks(engine: ropeway.Engine, text: str) -> Dict[str, object]:
    vectors, spans = engine.encode(text, late_chunking=True, return_spans=True)
    engine.encode([text], truncate_dim=[32], options=ropeway.Options(task="separation"))
    engine.encode(text, taks="separation")  # type: ignore[call-overload]
    return {"vectors": vectors, "spans": spans}
