"""jina-embeddings-v3 in small: three references, every task, mixtures, chunks, and the tolerances from them."""

import shutil

import numpy as np
import torch
from tokenizers import Tokenizer

import inorder
import texts
from fixture import case, largest, random_ids, rounded, write
from oracle import JinaOracle, forward, pool, windowed

TASKS = ["retrieval.query", "retrieval.passage", "separation", "classification", "text-matching"]
LENGTHS = [1, 2, 7, 63, 64, 65, 130, 512, 1030]
HIDDEN_STATES_AT = {(None, 7), ("retrieval.query", 7), (None, 65), ("retrieval.query", 65)}
MIXTURES = [
    {"retrieval.query": 0.7, "separation": 0.3},
    {"retrieval.passage": 0.5, "classification": 0.25, "text-matching": 0.25},
    {"separation": 0.4},
    {"text-matching": 1.5, "retrieval.query": -0.5},
]

SHAPE = (
    "--hidden 128 --layers 3 --heads 2 --ffn 256 --vocab 1000 --rank 4 --max-positions 2050"
    " --dtype bf16 --seed 20 --adapter-strength 0.3"
).split()


def mixture_of(row):
    if row["adapters"]:
        return {part["name"]: part["weight"] for part in row["adapters"]}
    return {row["task"]: 1.0} if row["task"] else {}


def split_evenly(length, count):
    edges = np.linspace(0, length, count + 1).astype(int).tolist()
    return [list(span) for span in zip(edges, edges[1:])]


def all_cases(oracle, tokenizer):
    vocab = oracle.config["vocab_size"]
    ids = {length: random_ids(length, vocab, seed=length) for length in [*LENGTHS, 300, 700]}
    cases = []

    for task in [None, *TASKS]:
        for length in LENGTHS:
            name = f"{task or 'base'}/{length}"
            cases.append(case(name, ids[length], task=task, hidden_states=(task, length) in HIDDEN_STATES_AT))

    for index, mixture in enumerate(MIXTURES):
        adapters = [{"name": task, "weight": weight} for task, weight in mixture.items()]
        for length in (7, 130):
            shown = index == 0 and length == 7
            cases.append(case(f"mixture-{index}/{length}", ids[length], adapters=adapters, hidden_states=shown))

    for task, length in ((None, 65), ("retrieval.passage", 130)):
        for dimensions in (32, 64, 128):
            name = f"{task or 'base'}/{length}/dimensions-{dimensions}"
            cases.append(case(name, ids[length], task=task, dimensions=dimensions))

    query = "retrieval.query"
    cases += [
        case("cls/65", ids[65], task=query, pooling="cls"),
        case("unnormalized/65", ids[65], task=query, normalize=False),
        case("unnormalized/65/dimensions-64", ids[65], task=query, normalize=False, dimensions=64),
        case("tokens/7", ids[7], task=query, pooling="tokens", normalize=False),
    ]

    for index, (task, text) in enumerate(texts.JINA):
        prefixed = oracle.prefixes.get(task, "") + text
        cases.append(case(f"text-{index}", tokenizer.encode(prefixed).ids, task=task, text=text))

    passage = "retrieval.passage"

    def chunks(name, ids, spans, text=None, byte_ranges=None, window=None, dimensions=None):
        assert spans[0][0] == 0 and spans[-1][1] == len(ids)
        about = {"spans": spans, "byte_ranges": byte_ranges, "window": window}
        cases.append(case(name, ids, task=passage, pooling="chunks", text=text, chunks=about, dimensions=dimensions))

    chunks("chunks/130", ids[130], [[0, 10], [10, 11], [11, 64], [64, 129], [129, 130]])
    chunks("chunks/300/dimensions-64", ids[300], split_evenly(300, 7), dimensions=64)
    window = {"size": 256, "overlap": 32}
    chunks("chunks/130/one-window", ids[130], split_evenly(130, 3), window=window)
    # Among the chunks: one across the windows' edge at 256, one that ends at the edge at 480, one of a single token.
    chunks(
        "chunks/700/windows",
        ids[700],
        [[0, 100], [100, 250], [250, 262], [262, 480], [480, 699], [699, 700]],
        window=window,
    )
    chunks("chunks/700/narrow-windows", ids[700], split_evenly(700, 9), window={"size": 128, "overlap": 64})
    chunks("chunks/700/no-overlap", ids[700], split_evenly(700, 5), window={"size": 128, "overlap": 0})
    chunks("chunks/text", **text_chunks(oracle, tokenizer, passage))
    return cases


def text_chunks(oracle, tokenizer, task):
    """The document of sentences: its ids, and each chunk as a byte range of the text and a span of the ids.

    As upstream does it: a token belongs to the chunk in which it begins, the first chunk reaches back
    over `<s>` and the prompt, the last one reaches over `</s>`.
    """
    prefix, text = oracle.prefixes[task], "".join(texts.LATE_CHUNKING)
    encoding = tokenizer.encode(prefix + text)
    byte_ends = np.cumsum([len(sentence.encode()) for sentence in texts.LATE_CHUNKING]).tolist()
    character_ends = np.cumsum([len(sentence) for sentence in texts.LATE_CHUNKING]) + len(prefix)
    inner = [start for (start, _), special in zip(encoding.offsets, encoding.special_tokens_mask) if not special]
    # Character offsets of the reference's tokenizer; the first of the ids is `<s>`.
    edges = [0, *(1 + sum(start < end for start in inner) for end in character_ends.tolist()[:-1]), len(encoding.ids)]
    return {
        "text": text,
        "ids": encoding.ids,
        "spans": [list(span) for span in zip(edges, edges[1:])],
        "byte_ranges": [list(span) for span in zip([0, *byte_ends], byte_ends)],
    }


def evaluate(row, run):
    """What `row` expects, where `run` maps ids to hidden states [layers + 1, tokens, hidden]."""
    window = row["chunks"]["window"] if row["chunks"] else None
    if window:
        tokens = windowed(lambda ids: run(ids)[-1], row["ids"], window["size"], window["overlap"])
        return pool(tokens, row), None
    states = run(row["ids"])
    return pool(states[-1], row), states


def write_fixture(folder, out):
    oracle = JinaOracle(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    cases = all_cases(oracle, tokenizer)
    tensors, references = {}, {}

    for row in cases:
        mixture = mixture_of(row)
        exact, states = evaluate(row, lambda ids: oracle.hidden_states(ids, mixture, torch.float64))
        others = {
            "transformers": lambda ids: oracle.hidden_states(ids, mixture, torch.float32),
            "in_order": lambda ids: inorder.hidden_states(oracle, ids, mixture),
        }
        show = row.pop("hidden_states")
        row["expected"] = row["name"]
        row["hidden_states"] = f"{row['name']}/hidden_states" if show else None
        row["error"] = {}
        if show:
            row["hidden_states_error"] = {}
        for other, run in others.items():
            found, found_states = evaluate(row, run)
            row["error"][other] = rounded(largest(found - exact))
            if show:
                row["hidden_states_error"][other] = [rounded(largest(d)) for d in found_states - states]
        tensors[row["expected"]] = exact.astype(np.float32)
        references[row["name"]] = exact
        if show:
            tensors[row["hidden_states"]] = states.astype(np.float32)

    tolerance = derive_tolerance(cases)
    for row in cases:
        row["tolerance"] = tolerance["normalized"] if row["normalize"] else tolerance["hidden_states"][-1]
    manifest = {
        "models": ["jina-hub", "jina-native"],
        "tolerance": tolerance,
        "controls": controls(oracle, cases, references, tolerance["normalized"]),
        "sensitivity": sensitivity(oracle, cases, references),
    }
    write(out / "jina", manifest, cases, tensors)
    return oracle, cases, references


def make(out, make_model):
    for layout in ("hub", "native"):
        shutil.rmtree(out / f"jina-{layout}", ignore_errors=True)
        make_model(f"jina-{layout}", "--layout", layout, *SHAPE)
    oracle, cases, references = write_fixture(out / "jina-hub", out)
    apart = check_native_layout(out / "jina-native", oracle, cases, references)
    print(f"jina: {len(cases)} cases; the native layout through transformers and PEFT differs by {apart:.1e}")


def derive_tolerance(cases):
    """Twice the larger error of the two float32 references over all cases of a kind."""
    normalized = max(max(row["error"].values()) for row in cases if row["normalize"])
    shown = [np.array(list(row["hidden_states_error"].values())) for row in cases if row["hidden_states"]]
    layers = np.stack(shown).max(axis=(0, 1))
    # Token vectors and unnormalised means are compared with the last layer's tolerance.
    loose = max(max(row["error"].values()) for row in cases if not row["normalize"])
    layers[-1] = max(layers[-1], loose)
    return {
        "rule": "2 x the larger max-abs error against float64 of the two float32 references, over all cases",
        "normalized": rounded(2 * normalized),
        "hidden_states": [rounded(2 * error) for error in layers],
    }


def controls(oracle, cases, references, tolerance):
    """How far each deliberate mistake moves a normalised embedding; all must be far past the tolerance."""
    moved = {"wrong_task": [], "adapters_off": [], "rope_base_10000": []}
    for row in cases:
        if row["pooling"] != "mean" or not row["normalize"] or row["dimensions"] or len(row["ids"]) < 7:
            continue
        task, mixture, expected = row["task"], mixture_of(row), references[row["name"]]

        def move(mixture, **options):
            states = oracle.hidden_states(row["ids"], mixture, torch.float64, **options)
            return largest(pool(states[-1], row) - expected)

        moved["rope_base_10000"].append((move(mixture, rope_base=10000.0), row["name"]))
        if mixture:
            moved["adapters_off"].append((move({}), row["name"]))
        if task:
            wrong = TASKS[(TASKS.index(task) + 1) % len(TASKS)]
            moved["wrong_task"].append((move({wrong: 1.0}), row["name"]))
    report = {}
    for name, all_moves in moved.items():
        least, at = min(all_moves)
        report[name] = {
            "least": rounded(least),
            "at": at,
            "median": rounded(float(np.median([m for m, _ in all_moves]))),
            "times_tolerance": round(least / tolerance),
        }
        if least < 100 * tolerance:
            raise SystemExit(f"make: control {name} moves {at} by {least:.1e} only, under 100 x {tolerance:.1e}")
    return report


def sensitivity(oracle, cases, references):
    """What float32 angles cost: the embedding with exact RoPE angles against the reference's float32 angles."""
    module = type(oracle.model({}, torch.float64).rotary_emb)
    usual = module.forward

    def exact_angles(self, x, position_ids):
        base, half = self.config.rope_parameters["rope_theta"], self.inv_freq.shape[0]
        frequencies = base ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = (position_ids[..., None].double() * frequencies).repeat(1, 1, 2)
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)

    module.forward = exact_angles
    try:
        found = {}
        for row in cases:
            if row["name"].startswith("base/") and not row["dimensions"]:
                exact, _ = evaluate(row, lambda ids: oracle.hidden_states(ids, {}, torch.float64))
                found[str(len(row["ids"]))] = rounded(largest(exact - references[row["name"]]))
    finally:
        module.forward = usual
    return {"rope_angles_in_float64": found}


def check_native_layout(folder, oracle, cases, references):
    """transformers' own loader and PEFT, on the other layout, must say the same as the merged hub layout."""
    from peft import PeftModel
    from transformers import JinaEmbeddingsV3Model

    worst = 0.0
    for task in [None, *TASKS]:
        model = JinaEmbeddingsV3Model.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        if task:
            model = PeftModel.from_pretrained(model, str(folder / task.replace(".", "_").replace("-", "_")))
            # The checkpoint's adapters are bf16; computing in float32 is what the fixtures are about.
            model = model.float()
        model.eval()
        for row in cases:
            if row["name"] in (f"{task or 'base'}/65", f"{task or 'base'}/512"):
                states = forward(model, row["ids"])
                worst = max(worst, largest(pool(states[-1], row) - references[row["name"]]))
    if worst > 5e-6:
        raise SystemExit(f"make: transformers reads {folder} differently from the hub layout: {worst:.1e} apart")
    return worst
