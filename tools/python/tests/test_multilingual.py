"""The scores that mteb gives to ropeway and to sentence-transformers with the same folder, in 24 languages."""

import os

import numpy as np
import pytest

mteb = pytest.importorskip("mteb")
pytest.importorskip("django")

import torch  # noqa: E402
from messages import LANGUAGES, MessageRetrieval, MessageSTS, translations  # noqa: E402
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

from ropeway import Engine  # noqa: E402
from ropeway.mteb import RopewayEncoder  # noqa: E402

# What e5's authors say: both texts are queries where neither is to find the other.
E5_PROMPTS = {"query": "query: ", "document": "passage: ", "STS": "query: "}
# How far below float32 a score may be (float32 itself: equal to 4 digits), and how far a vector may be from float32's.
LARGEST_LOSS = {"bf16": 0.005, "int8": 0.01}
LEAST_COSINE = {"bf16": 0.9999, "int8": 0.999}

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        not {"ROPEWAY_MINILM", "ROPEWAY_E5_SMALL"} <= os.environ.keys(), reason="ROPEWAY_MINILM or ROPEWAY_E5_SMALL names no folder"
    ),
]


def score(encoder, task):
    (result,) = mteb.evaluate(encoder, task(), cache=None, co2_tracker=False).task_results
    return result.get_score()


def reference_of(folder):
    return SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": torch.float32})


@pytest.fixture(scope="module", params=["ROPEWAY_MINILM", "ROPEWAY_E5_SMALL"])
def model(request):
    """A folder, its prompts by mteb's names, the reference and its scores."""
    folder = os.environ[request.param]
    prompts = E5_PROMPTS if request.param == "ROPEWAY_E5_SMALL" else {}
    reference = reference_of(folder)
    encoder = SentenceTransformerEncoderWrapper(reference, model_prompts=prompts or None)
    scores = {task: score(encoder, task) for task in (MessageRetrieval, MessageSTS)}
    print(os.path.basename(folder), "sentence-transformers", {task.__name__: scores[task] for task in scores})
    if prompts:
        assert all(found > 0.5 for found in scores.values()), "a multilingual model is far from chance"
    return folder, prompts, scores


@pytest.mark.parametrize("precision", ["f32", "bf16", "int8"])
def test_scores_are_those_of_sentence_transformers(model, precision):
    folder, prompts, wanted = model
    tasks = {"STS": "query"} if prompts else None
    encoder = RopewayEncoder(Engine(folder, device="cpu", precision=precision), tasks=tasks)
    for task, expected in wanted.items():
        found = score(encoder, task)
        print(os.path.basename(folder), precision, task.__name__, found)
        if precision == "f32":
            assert abs(found - expected) < 5e-5
        else:
            assert found >= expected - LARGEST_LOSS[precision]


def test_vectors_in_every_language_are_those_of_sentence_transformers():
    folder = os.environ["ROPEWAY_E5_SMALL"]
    texts = [text for messages in translations().values() for text in sorted(messages.values())[:2]]
    assert len(texts) == 2 * len(LANGUAGES)
    reference = reference_of(folder)
    wanted = {"query": reference.encode_query(texts), "document": reference.encode_document(texts)}
    assert abs(wanted["query"] - wanted["document"]).max() > 1e-2
    engine = Engine(folder, device="cpu")
    np.testing.assert_allclose(engine.encode_query(texts), wanted["query"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(engine.encode_document(texts), wanted["document"], rtol=0, atol=1e-5)
    for precision, least in LEAST_COSINE.items():
        found = Engine(folder, device="cpu", precision=precision).encode_query(texts)
        assert (found * wanted["query"]).sum(axis=1).min() >= least
