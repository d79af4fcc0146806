"""Clients from PyPI, unmodified but for the base URL, against a running server: clients.py URL KEY."""

import math
import struct
import sys
import base64
import urllib.request
import json

import cohere
import huggingface_hub
import openai

URL, KEY = sys.argv[1:3]
TEXTS = ["a b c", "d e", "a"]


def post(path, body):
    """A request without any client library: what the clients' answers are compared with."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    return json.load(urllib.request.urlopen(request))


def same(found, wanted):
    assert len(found) == len(wanted), (len(found), len(wanted))
    for a, b in zip(found, wanted):
        assert math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-7), (a, b)


def check_openai():
    client = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0)
    plain = post("/embed", {"inputs": TEXTS})
    # The client asks for base64 and decodes it.
    answer = client.embeddings.create(model="tiny", input=TEXTS)
    assert [item.index for item in answer.data] == [0, 1, 2] and answer.model == "tiny"
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    for item, wanted in zip(answer.data, plain):
        same(item.embedding, wanted)
    floats = client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="float", dimensions=32)
    assert len(floats.data[0].embedding) == 32
    raw = client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="base64")
    packed = base64.b64decode(raw.data[0].embedding)
    same(struct.unpack(f"<{len(packed) // 4}f", packed), plain[0])
    query = client.embeddings.create(model="tiny", input=TEXTS[0], extra_body={"task": "retrieval.query"})
    same(query.data[0].embedding, post("/embed", {"inputs": TEXTS[0], "prompt_name": "retrieval.query"})[0])
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    for error, call in [
        (openai.NotFoundError, lambda: client.embeddings.create(model="none", input="a")),
        (openai.BadRequestError, lambda: client.embeddings.create(model="tiny", input="")),
        (openai.BadRequestError, lambda: client.embeddings.create(model="tiny", input="a", dimensions=65)),
        (openai.AuthenticationError, lambda: client.with_options(api_key="wrong").embeddings.create(model="tiny", input="a")),
    ]:
        try:
            call()
        except error as found:
            assert found.request_id and "message" in found.body, found.body
        else:
            raise AssertionError(f"no {error.__name__}")


def check_cohere():
    plain = post("/embed", {"inputs": TEXTS, "prompt_name": "retrieval.passage"})
    for client in [cohere.ClientV2(api_key=KEY, base_url=URL), cohere.Client(api_key=KEY, base_url=URL)]:
        answer = client.embed(
            model="tiny",
            texts=TEXTS,
            input_type="search_document",
            embedding_types=["float", "int8", "uint8", "binary", "ubinary"],
        )
        vectors = answer.embeddings
        for found, wanted in zip(getattr(vectors, "float_", None) or vectors.float, plain):
            same(found, wanted)
        assert len(vectors.int8) == 3 and max(vectors.int8[0]) <= 127
        assert [x - 128 for x in vectors.ubinary[0]] == vectors.binary[0]
        assert [x - 128 for x in vectors.uint8[0]] == vectors.int8[0]
        assert answer.meta.billed_units.input_tokens > 0
    old = cohere.Client(api_key=KEY, base_url=URL).embed(model="tiny", texts=TEXTS, input_type="search_document")
    for found, wanted in zip(old.embeddings, plain):
        same(found, wanted)
    try:
        cohere.ClientV2(api_key=KEY, base_url=URL).embed(
            model="none", texts=TEXTS, input_type="search_query", embedding_types=["float"]
        )
    except cohere.NotFoundError as error:
        assert "none" in str(error.body), error.body
    else:
        raise AssertionError("no NotFoundError")


def check_huggingface_hub():
    client = huggingface_hub.InferenceClient(base_url=URL, api_key=KEY)
    plain = post("/embed", {"inputs": TEXTS[0]})
    same(client.feature_extraction(TEXTS[0])[0].tolist(), plain[0])
    cosines = client.sentence_similarity(TEXTS[0], TEXTS)
    assert len(cosines) == 3 and math.isclose(cosines[0], 1, abs_tol=1e-5), cosines


for check in [check_openai, check_cohere, check_huggingface_hub]:
    check()
    print("ok", check.__name__.removeprefix("check_"))
