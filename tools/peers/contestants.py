"""The peers: PyTorch (sentence-transformers, transformers), ONNX Runtime and OpenVINO, each set up to be fast; in float32
(without OpenVINO), or narrow: PyTorch and OpenVINO in bf16, ONNX Runtime in int8."""

import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.simplefilter("ignore")

import numpy as np
import onnxruntime
import torch
import transformers
from race import Contestant, timed
from tokenizers import Tokenizer

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

MAX_TOKENS = 256


def load_tokenizer(folder):
    """MiniLM's tokenizer with sentence-transformers' limit. The file's own limit of 128 and its padding
    to 128 are what the model was trained with; nobody serves it so."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    tokenizer.no_padding()
    return tokenizer


def export_minilm(folder, path):
    """The model as ONNX with free batch and length; written once."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()

    class TokenVectors(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    ids = torch.randint(1000, 2000, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0  # so that the exporter sees a mask that does something
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    unfinished = path.with_suffix(".unfinished")
    torch.onnx.export(
        TokenVectors(), (ids, mask), str(unfinished), dynamo=True, external_data=False, verbose=False,
        input_names=["input_ids", "attention_mask"], output_names=["token_vectors"],
        dynamic_shapes={"input_ids": free, "attention_mask": free},
    )  # fmt: skip
    unfinished.replace(path)


def quantise(path):
    """A copy in int8: weights per channel, activations as they come; written once."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantised = path.with_suffix(".int8.onnx")
    if not quantised.exists():
        unfinished = path.with_suffix(".int8.unfinished")
        quantize_dynamic(str(path), str(unfinished), per_channel=True, weight_type=QuantType.QInt8)
        unfinished.replace(quantised)
    return quantised


def compile_for_openvino(path, threads):
    """The model in bf16, which multiplies by AMX where there is one."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "bf16", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    return openvino.Core().compile_model(str(path), "CPU", settings)


def normalised(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class MiniLm:
    """Text in, normalised vector out, for all contestants."""

    def __init__(self, folder, onnx, threads, narrow=False):
        from sentence_transformers import SentenceTransformer

        export_minilm(folder, onnx)
        self.openvino = None
        if narrow:
            self.openvino = compile_for_openvino(onnx, threads)
            onnx = quantise(onnx)
        self.tokenizer = load_tokenizer(folder)
        self.exact = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
        self.torch = self.exact
        if narrow:
            self.torch = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.bfloat16})
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.session = onnxruntime.InferenceSession(str(onnx), options, providers=["CPUExecutionProvider"])

    def candidates(self, case):
        texts = [row["text"] for row in case.inputs]
        by_torch = (32, 64) if len(texts) > 1 else (1,)
        by_others = (1, 8, 32) if len(texts) > 1 else (1,)
        others = {"ONNX Runtime": lambda inputs: self.session.run(None, inputs)[0]}
        if self.openvino:
            others["OpenVINO"] = lambda inputs: self.openvino(inputs)[0]
        return {
            "PyTorch": [self._with_torch(texts, batch) for batch in by_torch],
            **{name: [self._padded(name, run, texts, batch) for batch in by_others] for name, run in others.items()},
        }

    def reference(self, case):
        """The vectors in float32."""
        texts = [row["text"] for row in case.inputs]
        return self.exact.encode(texts, normalize_embeddings=True, show_progress_bar=False).tolist()

    def _with_torch(self, texts, batch):
        def encode():
            return self.torch.encode(
                texts, batch_size=batch, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )

        return Contestant(f"sentence-transformers, batch {batch}", timed(encode), lambda: encode().tolist())

    def _padded(self, name, run, texts, batch):
        """One that `run`s padded batches of ids and gives token vectors."""

        def encode():
            rows = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
            # Neighbours in a batch are of like length, so little is padding.
            order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
            vectors = np.empty((len(rows), 384), np.float32)
            for start in range(0, len(order), batch):
                chosen = order[start : start + batch]
                longest = len(rows[chosen[-1]])
                ids = np.zeros((len(chosen), longest), np.int64)
                mask = np.zeros((len(chosen), longest), np.int64)
                for place, index in enumerate(chosen):
                    ids[place, : len(rows[index])] = rows[index]
                    mask[place, : len(rows[index])] = 1
                tokens = run({"input_ids": ids, "attention_mask": mask})
                weight = mask[:, :, None].astype(np.float32)
                vectors[chosen] = (tokens * weight).sum(axis=1) / weight.sum(axis=1)
            return normalised(vectors)

        return Contestant(f"{name}, batch {batch}", timed(encode), lambda: encode().tolist())


class Jina4:
    """Ids in, normalised mean out; base weights, no task."""

    def __init__(self, folder, narrow=False):
        def load(dtype):
            return transformers.JinaEmbeddingsV3Model.from_pretrained(
                folder, dtype=dtype, attn_implementation="sdpa", add_pooling_layer=False
            ).eval()

        self.exact = load(torch.float32)
        self.model = load(torch.bfloat16) if narrow else self.exact

    def reference(self, case):
        """The vectors in float32."""
        return [vector.tolist() for vector in self._encode(self.exact, case)()]

    def _encode(self, model, case):
        rows = [torch.tensor([row["input_ids"]]) for row in case.inputs]

        @torch.inference_mode()
        def encode():
            means = [model(input_ids=ids).last_hidden_state[0].float().mean(dim=0) for ids in rows]
            return [torch.nn.functional.normalize(mean, dim=0).numpy() for mean in means]

        return encode

    def candidates(self, case):
        encode = self._encode(self.model, case)

        run = Contestant("transformers, sdpa", timed(encode), lambda: [vector.tolist() for vector in encode()])
        return {"PyTorch": [run]}
