"""The embedding classes of LangChain and LlamaIndex, unmodified but for the base URL: frameworks.py URL KEY."""

import asyncio
import json
import math
import sys
import urllib.request

from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

URL, KEY = sys.argv[1:3]
TEXTS = ["a b c", "d e", "a"]


def plain(texts):
    """The vectors without any client library: what the classes' are compared with."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(f"{URL}/embed", json.dumps({"inputs": texts}).encode(), headers)
    return json.load(urllib.request.urlopen(request))


WANTED = plain(TEXTS)


def same(found, wanted):
    assert len(found) == len(wanted), (len(found), len(wanted))
    for a, b in zip(found, wanted):
        assert len(a) == len(b), (len(a), len(b))
        assert all(math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-7) for x, y in zip(a, b))


def check_langchain(embeddings):
    same(embeddings.embed_documents(TEXTS), WANTED)
    same([embeddings.embed_query(TEXTS[1])], [WANTED[1]])
    same(asyncio.run(embeddings.aembed_documents(TEXTS)), WANTED)


def check_llama_index(embedding):
    same(embedding.get_text_embedding_batch(TEXTS), WANTED)
    same([embedding.get_text_embedding(TEXTS[0])], [WANTED[0]])
    same(asyncio.run(embedding.aget_text_embedding_batch(TEXTS)), WANTED)
    same([embedding.get_query_embedding(TEXTS[2])], [WANTED[2]])


# It counts tokens as OpenAI's models do, with a table that it downloads, and sends their ids, unless it is told that the
# model is another: what everybody sets who serves a model of their own.
check_langchain(OpenAIEmbeddings(model="tiny", base_url=f"{URL}/v1", api_key=KEY, check_embedding_ctx_length=False))
print("ok langchain-openai")
check_llama_index(OpenAIEmbedding(model_name="tiny", api_base=f"{URL}/v1", api_key=KEY))
print("ok llama-index-embeddings-openai")
# Without instructions it puts one of its own in front of a text, by the model's name.
check_llama_index(
    TextEmbeddingsInference(
        model_name="tiny", base_url=URL, auth_token=KEY, text_instruction="", query_instruction=""
    )
)
print("ok llama-index-embeddings-text-embeddings-inference")
