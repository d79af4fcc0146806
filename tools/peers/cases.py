"""The inputs: made from seeds, the same for all contestants."""

import math
import random

# Words that are one token each in MiniLM's vocabulary; checked when the texts are made.
WORDS = (
    "mountain valley river bridge cable station engine window summer winter morning evening ticket journey bread"
    " water stone forest cloud storm road house garden market music paper letter story doctor teacher captain"
    " silver golden narrow quiet early heavy clean open the of and under over between after before while with"
).split()


class Case:
    def __init__(self, name, model, inputs, tokens):
        self.name, self.model, self.inputs, self.tokens = name, model, inputs, tokens


def text_of(length, tokenizer, seed):
    """A text of exactly `length` tokens, [CLS] and [SEP] included."""
    text = " ".join(random.Random(seed).choices(WORDS, k=length - 2))
    found = len(tokenizer.encode(text).ids)
    if found != length:
        raise ValueError(f"the text for {length} tokens has {found}: a word of WORDS is no longer one token")
    return text


def mixed_lengths(count, shortest, longest, seed):
    """Log-uniform: as many texts between 8 and 16 tokens as between 128 and 256."""
    draw = random.Random(seed)
    return [round(math.exp(draw.uniform(math.log(shortest), math.log(longest)))) for _ in range(count)]


def minilm(tokenizer):
    cases = []
    for length in (8, 16, 64):
        inputs = [{"text": text_of(length, tokenizer, seed=length)}]
        cases.append(Case(f"minilm, 1 text of {length} tokens", "minilm", inputs, length))
    lengths = mixed_lengths(64, 8, 256, seed=5)
    inputs = [{"text": text_of(length, tokenizer, seed=100 + index)} for index, length in enumerate(lengths)]
    cases.append(Case("minilm, 64 texts of 8…256 tokens", "minilm", inputs, sum(lengths)))
    return cases


def jina4(vocabulary):
    cases = []
    for length in (128, 512, 2048):
        draw = random.Random(length)
        ids = [0, *(draw.randrange(5, vocabulary) for _ in range(length - 2)), 2]
        cases.append(Case(f"jina4, 1 × {length} tokens", "jina4", [{"input_ids": ids}], length))
    return cases
