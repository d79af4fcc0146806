"""What the frameworks' own classes do with an engine."""

import asyncio

import numpy as np
import pytest


def test_langchain(engine):
    pytest.importorskip("langchain_core")
    from langchain_core.vectorstores import InMemoryVectorStore

    from ropeway.langchain import RopewayEmbeddings

    texts = ["a warm coat", "a cold beer", "a long walk"]
    embeddings = RopewayEmbeddings(engine, document={"task": "separation"}, query={"task": "separation"})
    store = InMemoryVectorStore.from_texts(texts, embeddings)
    assert store.similarity_search("a cold beer", k=1)[0].page_content == "a cold beer"
    found = asyncio.run(store.asimilarity_search("a long walk", k=1))
    assert found[0].page_content == "a long walk"
    plain = RopewayEmbeddings(engine)
    np.testing.assert_array_equal(
        np.float32(plain.embed_query("a")), engine.encode("a", task="retrieval.query")
    )
    np.testing.assert_array_equal(
        np.float32(asyncio.run(plain.aembed_documents(texts))), engine.encode(texts, task="retrieval.passage")
    )


def test_llama_index(engine):
    pytest.importorskip("llama_index.core")
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import SimpleVectorStore, VectorStoreQuery

    from ropeway.llama_index import RopewayEmbedding

    texts = ["a warm coat", "a cold beer", "a long walk"]
    embedding = RopewayEmbedding(engine, query={"task": "separation"}, document={"task": "separation"})
    nodes = embedding([TextNode(text=text, id_=text) for text in texts])
    store = SimpleVectorStore()
    store.add(nodes)
    query = asyncio.run(embedding.aget_query_embedding("a cold beer"))
    assert store.query(VectorStoreQuery(query_embedding=query, similarity_top_k=1)).ids == ["a cold beer"]
    plain = RopewayEmbedding(engine)
    np.testing.assert_array_equal(
        np.float32(plain.get_query_embedding("a")), engine.encode("a", task="retrieval.query")
    )
    np.testing.assert_array_equal(
        np.float32(asyncio.run(plain.aget_text_embedding_batch(texts))),
        engine.encode(texts, task="retrieval.passage"),
    )


def test_haystack(engine):
    pytest.importorskip("haystack")
    from haystack import Document, Pipeline

    from ropeway.haystack import RopewayDocumentEmbedder, RopewayTextEmbedder

    documents = [Document(content="a warm coat"), Document(content=None)]
    pipeline = Pipeline()
    pipeline.add_component("documents", RopewayDocumentEmbedder(engine))
    pipeline.add_component("text", RopewayTextEmbedder(engine))
    out = pipeline.run({"documents": {"documents": documents}, "text": {"text": "a coat"}})
    vectors = np.float32([document.embedding for document in out["documents"]["documents"]])
    np.testing.assert_array_equal(vectors, engine.encode(["a warm coat", ""], task="retrieval.passage"))
    np.testing.assert_array_equal(
        np.float32(out["text"]["embedding"]), engine.encode("a coat", task="retrieval.query")
    )
    # The caller's documents stay as they were.
    assert documents[0].embedding is None
