"""The inputs: made from seeds, the same for all contestants."""

import math
import random

# Words that are one token each in MiniLM's vocabulary; checked when the texts are made.
WORDS = (
    "mountain valley river bridge cable station engine window summer winter morning evening ticket journey bread"
    " water stone forest cloud storm road house garden market music paper letter story doctor teacher captain"
    " silver golden narrow quiet early heavy clean open the of and under over between after before while with"
).split()

# Lengths of a single input on a GPU.
SINGLE = (16, 128, 512, 8192)


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


def random_ids(length, vocabulary, seed):
    draw = random.Random(seed)
    return [0, *(draw.randrange(5, vocabulary) for _ in range(length - 2)), 2]


def jina4(vocabulary):
    return [
        Case(f"jina4, 1 × {length} tokens", "jina4", [{"input_ids": random_ids(length, vocabulary, length)}], length)
        for length in (16, 128, 512, 2048)
    ]


def on_gpu(vocabulary, most_tokens, tasks, quick):
    """{key: Case} of tools/peers/gpu, for a model that takes inputs of up to `most_tokens`. All of them are ids.
    `quick`: the same cases in the smallest sizes."""

    def case(name, lengths, chosen=()):
        inputs = [{"input_ids": random_ids(length, vocabulary, 7 + at)} for at, length in enumerate(lengths)]
        for at, row in enumerate(inputs if chosen else ()):
            row["task"] = chosen[at % len(chosen)]
        return Case(name, None, inputs, sum(lengths))

    count, shortest, longest = (6, 4, 32) if quick else (256, 16, 512)
    mixed = mixed_lengths(count, shortest, longest, seed=5)
    about = f"{count} × {shortest}…{longest} tokens"
    cases = {"mixed": case(about, mixed)}
    for rows, length in (
        ((2, 16), (1, 8), (1, 24), (1, 32), (1, 64)) if quick else ((64, 512), *((1, n) for n in SINGLE))
    ):
        if length <= most_tokens:
            cases[f"{rows}x{length}"] = case(f"{rows} × {length} tokens", [length] * rows)
    if tasks:
        cases["task"] = case(f"{about}, all {tasks[0]}", mixed, tasks[:1])
        cases["tasks"] = case(f"{about}, {len(tasks)} tasks in turn", mixed, tasks)
    return cases
