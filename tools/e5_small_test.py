#!/usr/bin/env python3
"""Tests of e5_small.py, with a tiny model in the format that it reads."""

import json
import math
import random
import struct
import sys
import tempfile
import unittest
from pathlib import Path

sys.dont_write_bytecode = True
import e5_small  # noqa: E402

HIDDEN, LAYERS, INTERMEDIATE, VOCABULARY, POSITIONS, TYPES = 32, 2, 64, 9, 8, 2
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581a", "\u00e9", "<mask>"]
SCORES = [0.0, 0.0, 0.0, 0.0, -1.5, -2.25, 0.0]


def made_up():
    """A file, and its numbers by the tensors' names: an independent account of the format."""
    chance = random.Random(5)
    header = b"E5S1" + struct.pack("<I7ifi", 1, HIDDEN, LAYERS, 2, INTERMEDIATE, VOCABULARY, POSITIONS, TYPES, 1e-12, 32)
    text = [piece.encode() for piece in PIECES]
    starts = [sum(map(len, text[:i])) for i in range(len(text) + 1)]
    header += struct.pack("<5iQ", len(text), 0, 2, 1, 3, starts[-1])
    header += struct.pack(f"<{len(starts)}I{len(text)}f", *starts, *SCORES) + b"".join(text)
    # One entry: U+00A0 becomes a space.
    header += struct.pack("<iIIBI", 1, 9, 0xA0, 1, 0x20)

    shapes = e5_small.shapes(HIDDEN, LAYERS, INTERMEDIATE, VOCABULARY, POSITIONS, TYPES)
    tensors, numbers = {}, {}
    for name, (theirs, shape) in shapes.items():
        count = shape[0] * (shape[1] if len(shape) == 2 else 1)
        if name == "emb.word" or name.endswith(".w") and len(shape) == 2:
            data, numbers[theirs] = b"", []
            for _ in range(count // 32):
                scale = chance.choice([0.5, -0.25, 0.0078125, 0.10003662109375, 2.0**-24])
                halves = [chance.randrange(16) for _ in range(32)]
                data += struct.pack("<e16B", scale, *(halves[i] | halves[i + 16] << 4 for i in range(16)))
                numbers[theirs] += [(half - 8) * scale for half in halves]
            tensors[name] = (1, count, data)
        else:
            numbers[theirs] = [chance.uniform(-2, 2) for _ in range(count)]
            tensors[name] = (0, count, struct.pack(f"<{count}f", *numbers[theirs]))

    at = len(header) + 4 + sum(2 + len(name) + 21 for name in tensors)
    directory, content = struct.pack("<i", len(tensors)), b""
    for name, (kind, count, data) in tensors.items():
        directory += struct.pack("<H", len(name)) + name.encode()
        directory += struct.pack("<BIQQ", kind, count, at + len(content), len(data))
        content += data
    return header + directory + content, numbers


class Conversion(unittest.TestCase):
    def setUp(self):
        self.data, self.numbers = made_up()

    def convert(self, data):
        with tempfile.TemporaryDirectory() as folder:
            e5_small.convert(data, Path(folder))
            return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}

    def test_every_number_is_the_nearest_bfloat16(self):
        weights = self.convert(self.data)["model.safetensors"]
        (size,) = struct.unpack_from("<Q", weights)
        header = json.loads(weights[8 : 8 + size])
        self.assertEqual(size % 8, 0)
        self.assertEqual(header.keys() - {"__metadata__"}, self.numbers.keys())
        for name, wanted in self.numbers.items():
            self.assertEqual(header[name]["dtype"], "BF16")
            start, end = header[name]["data_offsets"]
            bits = struct.unpack(f"<{len(wanted)}H", weights[8 + size + start : 8 + size + end])
            for bit, number in zip(bits, wanted):
                (found,) = struct.unpack("<f", struct.pack("<I", bit << 16))
                # Half of what the last of the 8 bits is worth.
                half = math.ldexp(1, math.frexp(number)[1] - 9) if number else 0
                self.assertLessEqual(abs(found - number), half, name)
        self.assertEqual(8 + size + max(one["data_offsets"][1] for name, one in header.items() if "_" != name[0]), len(weights))

    def test_ties_go_to_even(self):
        # Half way between 1 and the next, between that and its next, and a little above half way.
        found = struct.unpack("<4H", e5_small.bf16([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-16, -(1 + 2**-8)]))
        self.assertEqual(found, (0x3F80, 0x3F82, 0x3F81, 0xBF80))

    def test_configuration_and_tokenizer(self):
        files = self.convert(self.data)
        config = json.loads(files["config.json"])
        names = ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"]
        self.assertEqual([config[name] for name in names], [HIDDEN, LAYERS, 2, INTERMEDIATE, VOCABULARY])
        self.assertEqual(config["layer_norm_eps"], 1e-12)
        tokenizer = json.loads(files["tokenizer.json"])
        self.assertEqual(tokenizer["model"]["vocab"], [list(one) for one in zip(PIECES, SCORES)])
        self.assertEqual(tokenizer["added_tokens"][-1]["id"], len(PIECES) - 1)
        self.assertIn(b"differ", files["README.md"])

    def test_a_damaged_file_is_refused_by_what_is_wrong(self):
        name = self.data.index(b"l1.fo.w")
        for damaged, what in [
            (b"GGUF" + self.data[4:], "E5S1"),
            (self.data[:4] + b"\2" + self.data[5:], "version"),
            (self.data[:-1], "tensor"),
            (self.data.replace(b"l1.fo.w", b"l7.fo.w"), "'l7.fo.w'"),
            (self.data.replace(b"l1.fo.w", b"l0.fo.w"), "twice"),
            (self.data[: name + 7] + b"\0" + self.data[name + 8 :], "'l1.fo.w'"),
            (self.data.replace(b"<pad>", b"<bad>"), "vocabulary"),
        ]:
            with self.subTest(what=what):
                with self.assertRaisesRegex(e5_small.Malformed, what):
                    self.convert(damaged)
        for end in range(0, len(self.data), 251):
            with self.assertRaises(e5_small.Malformed):
                self.convert(self.data[:end])

    def test_a_scale_that_is_not_finite_is_refused(self):
        for scale in (b"\x00\x7c", b"\x00\xfc", b"\x01\x7e"):
            with self.assertRaisesRegex(e5_small.Malformed, "finite"):
                e5_small.widen(scale + bytes(16), e5_small.Tables())


if __name__ == "__main__":
    unittest.main()
