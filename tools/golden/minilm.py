"""all-MiniLM-L6-v2 by sentence-transformers: real weights, real tokenizer, real texts."""

import numpy as np
from sentence_transformers import SentenceTransformer

import texts
from fixture import rounded, write


def make(out, folder):
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})

    def encode(sentences):
        # One at a time: no padding, so the vectors are those of the texts alone.
        return model.encode(sentences, batch_size=1, normalize_embeddings=True, convert_to_numpy=True)

    everything = [*texts.MINILM, texts.MINILM_QUERY, *texts.MINILM_PASSAGES]
    single = encode(everything).astype(np.float64)
    model.double()
    exact = encode(everything).astype(np.float64)
    error = np.abs(single - exact).max(axis=1)

    cases = []
    for index, text in enumerate(everything):
        ids = model.tokenizer(text, truncation=True, max_length=model.max_seq_length)["input_ids"]
        whole = model.tokenizer(text)["input_ids"]
        cases.append({
            "name": f"text-{index}",
            "text": text,
            "ids": ids,
            "truncated": len(whole) > len(ids),
            "row": index,
            "error": rounded(error[index]),
        })  # fmt: skip
    assert sum(row["truncated"] for row in cases) == 1

    query, first = exact[len(texts.MINILM)], len(texts.MINILM) + 1
    scores = exact[first:] @ query
    order = np.argsort(-scores)
    assert np.diff(scores[order]).max() < -0.005, f"too alike to rank: {scores}"
    head = {
        "model": "models/all-MiniLM-L6-v2 (tools/fetch-model minilm)",
        "max_seq_length": model.max_seq_length,
        "expected": "embeddings",
        "tolerance": rounded(4 * error.max()),
        "ranking": {
            "query": f"text-{len(texts.MINILM)}",
            "passages": [f"text-{first + index}" for index in range(len(scores))],
            "order": [f"text-{first + index}" for index in order],
            "scores": [round(float(score), 6) for score in scores],
        },
    }
    write(out / "minilm", head, cases, {"embeddings": exact.astype(np.float32)})
    print(f"minilm: {len(cases)} texts; float32 differs from float64 by {error.max():.1e}")
