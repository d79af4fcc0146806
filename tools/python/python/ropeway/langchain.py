"""ropeway as LangChain's ``Embeddings``. Needs the package ``langchain-core``."""

from __future__ import annotations

from typing import Any, List, Mapping, Optional

from langchain_core.embeddings import Embeddings

from ._engine import Engine


class RopewayEmbeddings(Embeddings):
    """An engine as LangChain's ``Embeddings``.

    Queries and documents go with the model's tasks for them where it has some. ``query`` and ``document`` are keywords of
    :meth:`ropeway.Engine.encode` for each, such as ``{"task": "text-matching"}``.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        query: Optional[Mapping[str, Any]] = None,
        document: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self.engine = engine
        self.query = dict(query or {})
        self.document = dict(document or {})

    def embed_documents(self, texts: List[str]) -> List[List[float]]:
        """One vector per text."""
        vectors: List[List[float]] = self.engine.encode_document(texts, **self.document).tolist()
        return vectors

    def embed_query(self, text: str) -> List[float]:
        """The vector of a query."""
        vector: List[float] = self.engine.encode_query(text, **self.query).tolist()
        return vector

    async def aembed_documents(self, texts: List[str]) -> List[List[float]]:
        """One vector per text; calls at the same time share passes."""
        vectors: List[List[float]] = (await self.engine.aencode_document(texts, **self.document)).tolist()
        return vectors

    async def aembed_query(self, text: str) -> List[float]:
        """The vector of a query; calls at the same time share passes."""
        vector: List[float] = (await self.engine.aencode_query(text, **self.query)).tolist()
        return vector
