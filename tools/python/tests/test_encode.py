"""Words, shapes, errors, and the same bits as the command line."""

import dataclasses
import json
import os
import pickle
import subprocess

import numpy as np
import pytest

import ropeway
from conftest import MODEL

TEXTS = ["a warm coat", "", "a cold beer and a long walk", "naïve façade 🙂"]


def by_command_line(tmp_path, texts, *arguments):
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out = tmp_path / "out.npy"
    command = [os.environ["ROPEWAY_BIN"], "embed", "--device", "cpu", "--model", MODEL, "--format", "npy"]
    subprocess.run([*command, *arguments, "-o", str(out), str(lines)], check=True, capture_output=True)
    return np.load(out)


@pytest.mark.parametrize(
    "words, arguments",
    [
        ({}, []),
        ({"task": "retrieval.query"}, ["--task", "retrieval.query"]),
        ({"adapters": {"separation": 0.7, "classification": 0.3}}, ["--adapters", "separation=0.7,classification=0.3"]),
        ({"truncate_dim": 32}, ["--dimensions", "32", "--any-dimensions"]),
        ({"normalize": False}, ["--no-normalize"]),
        ({"prompt": "query: "}, ["--prompt", "query: "]),
    ],
)
def test_the_same_bits_as_the_command_line(engine, tmp_path, words, arguments):
    expected = by_command_line(tmp_path, TEXTS, *arguments)
    found = engine.encode(TEXTS, **words)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_one_text_is_a_vector_and_none_an_empty_array(engine):
    assert engine.encode("a").shape == (64,)
    assert engine.encode([]).shape == (0, 64)
    np.testing.assert_array_equal(engine.encode("a"), engine.encode(["b", "a"])[1])
    # A call without words goes a shorter way.
    np.testing.assert_array_equal(engine.encode("a"), engine.encode("a", truncate=True))
    np.testing.assert_array_equal(engine.encode(["a"]), engine.encode(("a",), truncate=True))


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "binary", "ubinary"])
@pytest.mark.parametrize("words", [{}, {"truncate_dim": 24}, {"task": []}])
def test_an_empty_array_is_like_a_full_one(engine, precision, words):
    found, scales = engine.encode([], precision=precision, return_scales=True, **words)
    like, like_scales = engine.encode(["a"], precision=precision, return_scales=True, **{**words, "task": None})
    assert found.dtype == like.dtype and found.shape == (0, like.shape[1])
    assert (scales is None) == (like_scales is None) and (scales is None or scales.shape == (0,))
    assert engine.encode([], precision=precision, output_value="token_embeddings", **words) == []
    assert engine.encode([], precision=precision, late_chunking=True, **words) == []


def test_batch_size_changes_no_bit(engine):
    np.testing.assert_array_equal(engine.encode(TEXTS * 9, batch_size=5), engine.encode(TEXTS * 9))


def test_precisions(engine):
    floats = engine.encode(TEXTS)
    bits = engine.encode(TEXTS, precision="ubinary")
    np.testing.assert_array_equal(bits, np.packbits(floats > 0, axis=1))
    signed = engine.encode(TEXTS, precision="binary")
    np.testing.assert_array_equal(signed, (bits.astype(np.int16) - 128).astype(np.int8))
    assert engine.encode(TEXTS, precision="float16").dtype == np.float16
    int8, scales = engine.encode(TEXTS, precision="int8", return_scales=True)
    assert int8.dtype == np.int8
    np.testing.assert_allclose(int8 * scales[:, None], floats, atol=scales.max())


def test_options_by_text(engine):
    tasks = ["retrieval.query", "separation", None, "retrieval.query"]
    found = engine.encode(TEXTS, task=tasks)
    for row, text, task in zip(found, TEXTS, tasks):
        np.testing.assert_array_equal(row, engine.encode(text, task=task))
    widths = engine.encode(TEXTS[:2], truncate_dim=[32, 64])
    assert [row.shape for row in widths] == [(32,), (64,)]
    with pytest.raises(ropeway.SettingError, match="task has 1 values for 4 texts"):
        engine.encode(TEXTS, task=["separation"])


def test_token_embeddings(engine):
    tokens = engine.encode(TEXTS, output_value="token_embeddings")
    assert len(tokens) == len(TEXTS) and all(one.shape[1] == 64 for one in tokens)
    mean = tokens[0].mean(axis=0)
    np.testing.assert_allclose(mean, engine.encode(TEXTS[0], normalize=False), atol=1e-5)


def test_late_chunking(engine):
    text = "One sentence. And another one. The third."
    chunks, spans = engine.encode(text, late_chunking=True, return_spans=True)
    assert chunks.shape == (3, 64) and spans[0] == (0, 14) and spans[-1][1] == len(text)
    again = engine.encode([text, text], spans=[spans, [(0, 12)]])
    np.testing.assert_array_equal(again[0], chunks)
    assert again[1].shape == (1, 64)
    np.testing.assert_array_equal(engine.encode(text, spans=list(spans)), chunks)


def test_similarity(engine):
    vectors = engine.encode(TEXTS)
    np.testing.assert_allclose(engine.similarity(vectors, vectors).diagonal(), 1, atol=1e-6)
    assert engine.similarity(vectors[0], vectors).shape == (1, len(TEXTS))
    assert not engine.similarity(np.zeros(64), vectors).any()


def test_queries_and_documents(engine):
    np.testing.assert_array_equal(engine.encode_query("a"), engine.encode("a", task="retrieval.query"))
    np.testing.assert_array_equal(engine.encode_document("a"), engine.encode("a", task="retrieval.passage"))
    np.testing.assert_array_equal(engine.encode_query("a", prompt=""), engine.encode("a", prompt=""))
    prompt = engine.prompts["retrieval.query"]
    np.testing.assert_array_equal(engine.encode("a", prompt_name="retrieval.query"), engine.encode("a", prompt=prompt))


def test_a_bad_text_is_named_and_the_others_can_be_kept(engine):
    texts = ["good", "x" * 300_000, "good too"]
    with pytest.raises(ropeway.RequestError, match="^input 1: ") as raised:
        engine.encode(texts)
    assert raised.value.index == 1 and raised.value.kind == "NoBlanks"
    assert isinstance(raised.value, ValueError)
    good, bad, other = engine.encode(texts, on_error="return")
    assert isinstance(bad, ropeway.RequestError)
    np.testing.assert_array_equal(good, engine.encode("good"))
    np.testing.assert_array_equal(other, engine.encode("good too"))
    with pytest.raises(ropeway.TextError) as raised:
        engine.encode(["good", "\ud800"])
    assert raised.value.index == 1
    good, bad = engine.encode(["good", "\ud800"], on_error="return")
    assert isinstance(bad, ropeway.TextError) and bad.index == 1
    np.testing.assert_array_equal(good, engine.encode("good"))


def test_a_huge_text_is_cut(engine):
    before = engine.info.truncated
    assert engine.encode("word " * 200_000).shape == (64,)
    assert engine.info.truncated == before + 1


@pytest.mark.parametrize(
    "sentences, words, error, message",
    [
        (None, {}, TypeError, "NoneType"),
        (3, {}, TypeError, "int"),
        (b"bytes", {}, TypeError, "bytes"),
        (["a", 3], {}, TypeError, "text 1 is of type int; wanted str"),
        (["a", None], {}, TypeError, "text 1"),
        (["a", "\ud800"], {}, ropeway.TextError, "text 1 holds a lone surrogate"),
        ("a", {"taks": "x"}, TypeError, "'taks'"),
        ("a", {"task": "x"}, ropeway.RequestError, "no task or adapter `x`"),
        ("a", {"task": 1}, TypeError, "task"),
        ("a", {"adapters": {"separation": float("nan")}}, ropeway.RequestError, "finite"),
        ("a", {"adapters": {"separation": 1}, "task": "separation"}, ropeway.SettingError, "leave one out"),
        ("a", {"dimensions": -1}, ropeway.SettingError, "dimensions is -1"),
        ("a", {"dimensions": 2**64}, ropeway.SettingError, "dimensions is"),
        ("a", {"dimensions": True}, TypeError, "bool"),
        ("a", {"dimensions": 33}, ropeway.RequestError, "trained"),
        ("a", {"precision": "int4"}, ropeway.SettingError, "float32, float16, int8"),
        ("a", {"output_value": None}, ropeway.SettingError, "sentence_embedding"),
        ("a", {"prompt_name": "x"}, ropeway.SettingError, "no prompt 'x'"),
        ("a", {"spans": [(0, 9)]}, ropeway.RequestError, "span"),
        ("a", {"spans": [(-1, 1)]}, ropeway.SettingError, "-1"),
        ("a", {"late_chunking": "words"}, ropeway.SettingError, "sentences"),
        ("a", {"pooling": "sum"}, ropeway.SettingError, "weightedmean"),
    ],
)
def test_wrong_arguments(engine, sentences, words, error, message):
    with pytest.raises(error, match=message) as raised:
        engine.encode(sentences, **words)
    assert isinstance(raised.value, (TypeError, ValueError))
    # The engine goes on.
    assert engine.encode("a").shape == (64,)


def test_opening_fails_by_kind(tmp_path):
    with pytest.raises(ropeway.ModelError, match="no such folder"):
        ropeway.Engine(tmp_path / "missing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ropeway.RopewayError, match="config.json"):
        ropeway.Engine(tmp_path)
    with pytest.raises(ropeway.SettingError, match="device: `gpu` is not one of auto, cpu"):
        ropeway.Engine(MODEL, device="gpu")
    with pytest.raises(ropeway.SettingError, match="threads is 0"):
        ropeway.Engine(MODEL, device="cpu", threads=0)
    with pytest.raises(ropeway.HubError):
        ropeway.Engine("nobody/no-such-model", offline=True)


def test_adapters(engine, tmp_path):
    with pytest.raises(ropeway.RopewayError):
        engine.add_adapter("mine", tmp_path)
    with pytest.raises(ropeway.AdapterError) as raised:
        engine.remove_adapter("mine")
    assert raised.value.kind == "NotLoaded"


def test_options_are_values():
    options = ropeway.Options(adapters={"separation": 0.5}, chunks=[(0, 3), [3, 5]], dimensions=32)
    assert pickle.loads(pickle.dumps(options)) == options
    assert hash(options) == hash(dataclasses.replace(options))
    assert options.chunks == ((0, 3), (3, 5))


def test_options_object(engine):
    options = ropeway.Options(task="separation", dimensions=32, any_dimensions=True)
    np.testing.assert_array_equal(
        engine.encode(TEXTS, options=options), engine.encode(TEXTS, task="separation", truncate_dim=32)
    )
    with pytest.raises(ropeway.SettingError, match="both options and task"):
        engine.encode("a", options=options, task="separation")


def test_info(engine):
    info = engine.info
    assert info.dimensions == 64 and not info.on_gpu and info.precision == "f32"
    assert "retrieval.query" in info.tasks
    with pytest.raises(TypeError, match="open one in each process"):
        pickle.dumps(engine)


def test_minilm_has_the_meaning_of_its_texts():
    folder = os.environ.get("ROPEWAY_MINILM")
    if not folder:
        pytest.skip("ROPEWAY_MINILM names no folder")
    model = ropeway.Engine(folder, device="cpu")
    query = model.encode("How do I reset my password?")
    near, far = model.similarity(query, model.encode(["I forgot my sign-in details", "The office opens at nine"]))[0]
    assert near > far + 0.2
