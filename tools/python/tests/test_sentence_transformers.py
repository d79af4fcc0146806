"""The table of README.md against the package that its words come from."""

import inspect
import os

import numpy as np
import pytest

import ropeway
from ropeway._call import WORDS

sentence_transformers = pytest.importorskip("sentence_transformers")
torch = pytest.importorskip("torch")
pytestmark = pytest.mark.filterwarnings("default")

TEXTS = ["a warm coat", "", "a cold beer and a long walk", "naïve façade"]

# What belongs to `Engine`, and what spreads a call over processes.
NOT_OF_ENCODE = {"device", "pool", "chunk_size"}


@pytest.fixture(scope="module")
def both():
    folder = os.environ.get("ROPEWAY_MINILM")
    if not folder:
        pytest.skip("ROPEWAY_MINILM names no folder")
    return ropeway.Engine(folder, device="cpu"), sentence_transformers.SentenceTransformer(folder, device="cpu")


def test_every_word_is_there():
    parameters = inspect.signature(sentence_transformers.SentenceTransformer.encode).parameters.values()
    words = {one.name for one in parameters if one.kind is not one.VAR_KEYWORD} - {"self", "inputs"}
    assert {"prompt_name", "normalize_embeddings", "truncate_dim"} < words
    assert words - NOT_OF_ENCODE <= WORDS


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"batch_size": 2, "show_progress_bar": False},
        {"prompt": "query: "},
        {"normalize_embeddings": True},
        {"normalize_embeddings": True, "truncate_dim": 100},
        {"convert_to_tensor": True},
        {"convert_to_numpy": False},
    ],
)
@pytest.mark.parametrize("sentences", [TEXTS, TEXTS[0]])
def test_the_same_vectors(both, words, sentences):
    ours, theirs = (model.encode(sentences, **words) for model in both)
    assert isinstance(ours, list) == isinstance(theirs, list)
    assert isinstance(ours, torch.Tensor) == words.get("convert_to_tensor", False)
    np.testing.assert_allclose(np.array(ours), np.stack([np.asarray(row) for row in theirs]), atol=2e-6)


def test_the_same_bits_and_tokens(both):
    engine, peer = both
    for precision in ("binary", "ubinary"):
        ours, theirs = (model.encode(TEXTS, precision=precision) for model in both)
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        # A number next to 0 may round to either side of it.
        assert np.unpackbits(ours.view(np.uint8) ^ theirs.view(np.uint8)).mean() < 0.002
    for ours, theirs in zip(*(model.encode(TEXTS, output_value="token_embeddings") for model in both)):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-4)
    vectors = engine.encode(TEXTS)
    np.testing.assert_allclose(engine.similarity(vectors, vectors), peer.similarity(vectors, vectors).numpy(), atol=2e-6)
