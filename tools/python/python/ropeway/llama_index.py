"""ropeway as LlamaIndex's ``BaseEmbedding``. Needs the package ``llama-index-core``."""

from __future__ import annotations

from typing import Any, Dict, List

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr

from ._engine import Engine


class RopewayEmbedding(BaseEmbedding):
    """An engine as LlamaIndex's ``BaseEmbedding``.

    Queries and texts go with the model's tasks for them where it has some. ``query`` and ``document`` are keywords of
    :meth:`ropeway.Engine.encode` for each.
    """

    query: Dict[str, Any] = Field(default_factory=dict, description="Keywords of encode for queries.")
    document: Dict[str, Any] = Field(default_factory=dict, description="Keywords of encode for documents.")
    _engine: Engine = PrivateAttr()

    def __init__(self, engine: Engine, **settings: Any) -> None:
        settings.setdefault("model_name", engine.info.path)
        super().__init__(**settings)
        self._engine = engine

    @classmethod
    def class_name(cls) -> str:
        """The name of the class in LlamaIndex's files."""
        return "RopewayEmbedding"

    def _get_query_embedding(self, query: str) -> List[float]:
        vector: List[float] = self._engine.encode_query(query, **self.query).tolist()
        return vector

    def _get_text_embedding(self, text: str) -> List[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: List[str]) -> List[List[float]]:
        vectors: List[List[float]] = self._engine.encode_document(texts, **self.document).tolist()
        return vectors

    async def _aget_query_embedding(self, query: str) -> List[float]:
        vector: List[float] = (await self._engine.aencode_query(query, **self.query)).tolist()
        return vector

    async def _aget_text_embedding(self, text: str) -> List[float]:
        return (await self._aget_text_embeddings([text]))[0]

    async def _aget_text_embeddings(self, texts: List[str]) -> List[List[float]]:
        vectors: List[List[float]] = (await self._engine.aencode_document(texts, **self.document)).tolist()
        return vectors
