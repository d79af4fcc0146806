"""ropeway as Haystack's embedders. Needs the package ``haystack-ai``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional

from haystack import Document, component

from ._engine import Engine


@component
class RopewayTextEmbedder:
    """Embeds a query; ``words`` are keywords of :meth:`ropeway.Engine.encode`."""

    def __init__(self, engine: Engine, words: Optional[Dict[str, Any]] = None) -> None:
        self.engine = engine
        self.words = dict(words or {})

    @component.output_types(embedding=List[float])
    def run(self, text: str) -> Dict[str, Any]:
        """The vector of a query."""
        return {"embedding": self.engine.encode_query(text, **self.words).tolist()}


@component
class RopewayDocumentEmbedder:
    """Embeds documents; ``words`` are keywords of :meth:`ropeway.Engine.encode`."""

    def __init__(self, engine: Engine, words: Optional[Dict[str, Any]] = None) -> None:
        self.engine = engine
        self.words = dict(words or {})

    @component.output_types(documents=List[Document])
    def run(self, documents: List[Document]) -> Dict[str, Any]:
        """The documents, each with its vector in ``embedding``."""
        vectors = self.engine.encode_document([document.content or "" for document in documents], **self.words)
        pairs = zip(documents, vectors.tolist())
        return {"documents": [replace(document, embedding=vector) for document, vector in pairs]}
