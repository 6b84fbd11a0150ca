"""The generated parts of tutorial/reference/: what was measured, and what the models need.

    python -m tutorial.pages.reference            write them
    python -m tutorial.pages.reference --check    exit with 1 if they are not up to date
"""


import math

import tiny
from tiny.config import Config
from tiny.files.packed.blocks import KINDS, NAMES, PLAIN
from tiny.files.packed.int8 import MATRICES
from tiny.files.params import KEYS, read_params
from tiny.files.weights import expected_shapes
from tiny.generate import PREFILL
from tiny.numerics import PRECISIONS
from tiny.parallel import cost
from tiny.parallel.shards import SPLITS
from tiny.tools import memory
from tiny.tools.markdown import refresh_parts, table
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B, stand_ins
from tiny.tools.terminal import Parser, program
from tutorial.pages import scoring, served
from tutorial.pages.measure import ROOT
from tutorial.pages.records import provenance, record, recorded, rows_table
from tutorial.pages.tried import __main__ as tried

FOLDER = ROOT / "tutorial/reference"
COMMAND = "python -m tutorial.pages.reference"


def sizes_block() -> str:
    """The sizes of the four models, side by side: the two releases and the two embedded ones."""
    models = {"Mixtral 8x7B": MIXTRAL_8X7B, "tiny-mixtral": embedded("tiny-mixtral"),
              "Pixtral 12B": PIXTRAL_12B, "tiny-pixtral": embedded("tiny-pixtral")}
    rows = [[label, *(f"{getattr(config, name):,}" for config in models.values())] for label, name in (
        ("width", "dim"), ("layers", "n_layers"), ("query heads", "n_heads"), ("key and value heads", "n_kv_heads"),
        ("width of a head", "head_dim"), ("hidden width", "hidden_dim"), ("vocabulary", "vocab_size"),
        ("context", "max_seq_len"))]
    rows.append(["experts, for a token", *(f"{config.moe.num_experts}, {config.moe.num_experts_per_tok}"
                                           if config.moe else "" for config in models.values())])
    rows.append(["layers of the encoder", *(str(config.vision.num_hidden_layers) if config.vision else ""
                                            for config in models.values())])
    rows.append(["pixels of a patch", *(f"{config.vision.patch_size} x {config.vision.patch_size}" if config.vision
                                        else "" for config in models.values())])
    rows.append(["parameters", *(f"{memory.parameters(config)[0]:,}" for config in models.values())])
    rows.append(["of these for a token", *(f"{memory.parameters(config)[1]:,}" for config in models.values())])
    return table(["size", *models], rows)


def embedded(name: str) -> Config:
    """The sizes of an embedded model."""
    return read_params(tiny.model_folder(name) / "params.json")


def memory_block() -> str:
    """What the real models need, by the estimate that the command `memory` prints."""
    rows = []
    for name, config, contexts in (("Mixtral 8x7B", MIXTRAL_8X7B, (1024, 4096, 32768)),
                                   ("Pixtral 12B", PIXTRAL_12B, (1024, 4096, 131072))):
        for context in contexts:
            need = memory.estimate(config, stand_ins(config), context)
            rows.append([name, f"{context:,}", *map(memory.amount, (need.stored, need.kv_cache, need.peak("mapped"),
                                                                    need.peak("resident")))])
    head = ["model", "tokens, prompt and answer", "bfloat16 files", "KV cache", "peak, `mapped`", "peak, `resident`"]
    total, active = memory.parameters(MIXTRAL_8X7B)
    counts = memory.parts(PIXTRAL_12B)
    (image,) = memory.images_of(PIXTRAL_12B, ())
    seen = memory.estimate(PIXTRAL_12B, stand_ins(PIXTRAL_12B), image.tokens + 256, [image.columns * image.rows])
    return "\n\n".join([table(head, rows), (
        f"Of Mixtral's {total:,} parameters {active:,} work on a token: mapped, each token reads up to "
        f"{memory.amount(2 * active)} of the files, from the page cache if they fit there, else from the disk. Pixtral "
        f"has {counts['decoder']:,} in the decoder, {counts['vision encoder']:,} in the vision encoder and "
        f"{counts['adapter']:,} in the adapter. An image of {image.width} x {image.height} pixels is {image.tokens:,} "
        f"tokens; with 256 more for question and answer, the peak is {memory.amount(seen.peak('mapped'))} mapped, of "
        f"which {memory.amount(seen.kv_cache)} are keys and values.")])


def context_block() -> str:
    """Long contexts: how they are read, what the releases need for all of theirs, and what was measured."""
    image = PIXTRAL_12B.vision.max_image_size // PIXTRAL_12B.vision.patch_size if PIXTRAL_12B.vision else 0
    how = (f"A prompt is read in passes of {PREFILL:,} tokens, and an image is encoded when its first token comes. So "
           "little grows with the prompt but its keys and values. `--precision bfloat16` keeps them in bfloat16, which "
           "loses nothing, because they are rounded already. `--cache bfloat16` does so in float32 too, and rounds "
           "them. An estimate for all of the context of the two releases:")
    rows = []
    for name, config, images in (("Mixtral 8x7B", MIXTRAL_8X7B, 0), ("Pixtral 12B", PIXTRAL_12B, 0),
                                 ("Pixtral 12B", PIXTRAL_12B, 30)):
        need = [memory.estimate(config, stand_ins(config), config.max_seq_len, [image**2] * images, cache=cache)
                for cache in PRECISIONS]
        rows.append([name, f"{config.max_seq_len:,}", str(images) if images else "",
                     *map(memory.amount, (need[0].activations, need[0].kv_cache, need[0].peak("mapped"),
                                          need[1].kv_cache, need[1].peak("mapped")))])
    head = ["model", "tokens", "images of 1024 x 1024", "activations", "KV in float32", "peak, `mapped`",
            "KV in bfloat16", "peak, `mapped`"]
    measured = recorded("context.json", context_table, "`python -m tiny bench --context --save` measures it")
    return "\n\n".join([how, table(head, rows), measured()])


def context_table(entry: dict) -> str:
    """What was measured of long contexts."""
    found = [[row["kind"], f"{row['tokens']:,}", str(row["images"] or ""), f"{row['processor']:,.1f} s",
              memory.amount(row["over"]), memory.amount(row["cache"])] for row in entry["rows"]]
    what = ("Measured on two narrow models of random weights, by `python -m tiny bench --context`: a Mixtral of 2 "
            "layers reads words, a Pixtral of 1 layer images of 1024 x 1024. The memory is what a process holds at "
            f"most beyond its weights and pixels. {provenance(entry)}.")
    columns = ["reads", "tokens", "images", "processor time", "memory over the start", "of which KV"]
    return f"{what}\n\n{table(columns, found)}"


def bench_block(entry: dict) -> str:
    """The recorded benchmarks: of the language model, and of the vision encoder if there is one."""
    parts, vision = bench_tables(entry), record("bench_vision.json")
    if vision:
        parts += ["A picture of 1024 x 1024 pixels, 4,096 patches, through a vision encoder of the real width with 4 "
                  "layers, by `python -m tiny bench --vision`:", *bench_tables(vision)]
    return "\n\n".join(parts)


def bench_tables(entry: dict) -> list[str]:
    """The paragraphs of one benchmark: how it was measured, and one table for each number of threads."""
    parts = [f"{provenance(entry)}."]
    for threads, part in sorted(entry["threads"].items(), key=lambda item: int(item[0])):
        parts += [f"{threads} thread{'s' * (threads != '1')}:", rows_table(part["rows"])]
    return parts


def tried_block(entry: dict) -> str:
    """The changes to products and layers that were tried, with what each gained on every machine."""
    columns = entry["columns"]
    rows = [[change.what, *(tried_cell(column["gains"].get(change.what, "")) for column in columns), change.kept]
            for change in tried.CHANGES]
    where = [f"{provenance(column)}{', read off by hand' if column.get('by_hand') else ''}" for column in columns]
    heads = [f"{column['machine'].partition(',')[0]}, {column['kernel']}" for column in columns]
    listed = "\n".join(f"* {line}" for line in where)
    return f"{listed}\n\n{table(['change', *heads, 'kept'], rows)}"


def tried_cell(found: dict[str, float] | str) -> str:
    """What one change gained on one machine."""
    return found if isinstance(found, str) else ", ".join(f"x{gain:.2f} ({on})" for on, gain in found.items())


def forms_block() -> str:
    """The types of GGUF that are read, with what they cost, and those that are refused by name."""
    rows = [[name, "1", str(dtype.itemsize), str(8 * dtype.itemsize)] for name, dtype in PLAIN.items()]
    rows += [[name, str(kind.numbers), str(kind.bytes), f"{8 * kind.bytes / kind.numbers:g}"]
             for name, kind in KINDS.items()]
    refused = [name for name in NAMES if name not in PLAIN and name not in KINDS]
    return table(["type", "numbers of a block", "bytes of a block", "bits for a number"], rows) + (
        f"\n\nRefused by name: {', '.join(refused)}.")


def gguf_keys_block() -> str:
    """The keys of GGUF files: read, without effect, and refused by name."""
    rows = []
    for title, name in (("`llama.`", "gguf"), ("`clip.`", "gguf_clip")):
        keys = KEYS[name]
        off = sorted(keys.off)
        only = [f"{key} = {' or '.join(str(value).lower() for value in values)}"
                for key, values in sorted(keys.only.items())]
        rest = sorted(keys.known - keys.off - keys.only.keys())
        rows += [[title, "read, or without effect", ", ".join(rest)], [title, "only with this value", ", ".join(only)],
                 [title, "refused, unless it is off", ", ".join(off)]]
    return table(["keys that begin with", "what they do", "keys"], rows)


def versions_block(entry: dict) -> str:
    """The tests with the oldest and with the newest packages that are allowed."""
    runs = [entry["oldest"], entry["newest"]]
    rows = [[name, *(run["versions"][name] for run in runs)] for name in runs[0]["versions"]]
    rows.append(["Python", *(run["python"] for run in runs)])
    rows.append(["tests", *(" ".join(run["tests"]) for run in runs)])
    rows += [[state, *(f"{run[state]:,}" for run in runs)] for state in ("passed", "skipped", "failed")]
    rows.append(["date", *(run["date"] for run in runs)])
    return f"On {runs[0]['machine']}.\n\n{table(['package', 'oldest', 'newest'], rows)}"


def fuzz_block(entry: dict) -> str:
    """How many damaged inputs were read, of what kinds, and the faults that were left."""
    faults = f"{entry['faults']:,} distinct faults" if entry["faults"] else "no fault"
    versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
    rows = [[name, f"{found['inputs']:,}", ", ".join(f"{n:,} {what}" for what, n in sorted(found["outcomes"].items())),
             str(len(found["faults"]))] for name, found in entry["targets"].items()]
    first = f"{entry['inputs']:,} damaged inputs of {len(rows)} kinds, seed {entry['seed']}, {entry['date']}"
    return (f"{first}: {faults}, "
            f"with {versions}.\n\n{table(['what is read', 'inputs', 'what became of them', 'faults'], rows)}")


def quantised_block(entry: dict) -> str:
    """What int8 costs tiny-mixtral, by which matrices are rounded."""
    rows = [[row["what"], f"{row['before']:.4f}", f"{row['after']:.4f}", f"{row['divergence']:.1e}",
             f"{1 - row['likeliest']:.2%}", f"{1 - row['experts']:.2%}"] for row in entry["costs"]]
    return f"{provenance(entry)}; {entry['costs'][0]['tokens']:,} tokens of held-out text.\n\n" + table(
        ["rounded", "loss before", "loss after", "KL divergence", "likeliest token changed", "experts changed"], rows)


def products_block(entry: dict) -> str:
    """The time of one token's product with each form of weights."""
    rows = [[f"`{row['what']}`", memory.amount(row["bytes"]), f"{row['of bfloat16']:.1f}"] for row in entry["speeds"]]
    return f"{provenance(entry)}; one thread.\n\n" + table(["weights", "bytes", "time, of bfloat16"], rows)


def int8_block() -> str:
    """What `quantize` makes of the released models, from their sizes."""
    rows = []
    for name, config in (("Mixtral 8x7B", MIXTRAL_8X7B), ("Pixtral 12B", PIXTRAL_12B)):
        shapes = expected_shapes(config)
        whole = sum(2 * math.prod(shape) for shape in shapes.values())
        int8 = sum(math.prod(shape) + 4 * shape[0] + 16 if MATRICES.search(key) else 2 * math.prod(shape)
                   for key, shape in shapes.items())
        rows.append([name, memory.amount(whole), memory.amount(int8)])
    return table(["model", "bfloat16", "int8"], rows)


def parallel_block(entry: dict) -> str:
    """What was measured of one model over several processes of one machine."""
    whole = max(entry["runs"][0]["peak_memory_bytes"])
    rows = []
    for run in entry["runs"]:
        peak, rates = max(run["peak_memory_bytes"]), (run["prompt_tokens_per_second"], run["tokens_per_second"])
        rows.append([str(run["ranks"]), str(run["threads"]), f"`{run['split']}`", memory.amount(peak),
                     f"{peak / whole:.2f}", f"{run['bytes_of_a_token']:,}",
                     *(f"{rate:.1f}" if run["first"] else "" for rate in rates)])
    busy = max(run["other_cores"] for run in entry["runs"] if run["first"])
    return f"{provenance(entry)}.\n\n" + table(
        ["ranks", "threads of each", "split", "peak memory of a rank", "of one process",
         "bytes sent for a token, by all", "prompt, tokens/s", "writing, tokens/s"], rows) + (
        "\n\nA speed is the median of three rounds, and stands where each thread had a core and ran before all other "
        f"programs; these took {busy:.1f} cores at most.")


def streamed_block(entry: dict) -> str:
    """What was measured of weights larger than memory."""
    rows = []
    for kind, run in entry["runs"].items():
        allowed = entry["memory"][kind]
        rows.append([f"`streamed`, {allowed} GB" if allowed else f"`{kind}`", f"{1 / run['seconds']:.2f}",
                     memory.amount(run["bytes"]), f"{memory.amount(run['bytes'] / run['seconds'])}/s",
                     f"{run['share']:.0%} of {memory.amount(run['raw'])}/s", memory.amount(run["peak"]),
                     f"{run['faults']:.0f}", f"{run['cpu']:.2f} s", f"{run['other_cores']:.1f}"])
    first = entry["runs"]["kept"]
    every = ", ".join(f"{share:.0%}" for share in entry["shares"]["kept"])
    return (f"{provenance(entry)}. A file of {memory.amount(entry['file'])} in a control group of "
            f"{memory.amount(entry['limit'])}; one token uses {memory.amount(first['active'])} of it; one thread; the "
            f"median of {entry['rounds']} rounds.\n\n" + table(
                ["weights", "tokens/s", "read for a token", "rate", "share of the disk's own rate", "peak of the group",
                 "page faults a token", "processor time a token", "cores that others used"], rows) +
            f"\n\nThe share in every round, with what every token needs kept: {every}. The logits of all rows are "
            "equal to the bit.")


def machines_block() -> str:
    """The model of cost for eight machines, beside one."""
    one = {rate: 1 / cost.decode_seconds(MIXTRAL_8X7B, 1, "all", cost.NETWORKS[0], rate)[0]
           for rate in (cost.CPU, cost.GPU)}
    rows = [[f"{row['memory_bytes_per_second'] / 1e9:,.0f} GB/s", f"`{row['split']}`", row["network"],
             f"{1e3 * row['read_seconds']:.3g} ms", f"{1e3 * row['sent_seconds']:.2g} ms",
             f"{row['tokens_per_second']:.3g}", f"{one[row['memory_bytes_per_second']]:.3g}"]
            for row in cost.eight_machines(MIXTRAL_8X7B)]
    prefill = {split: cost.bytes_sent(MIXTRAL_8X7B, 8, split, PREFILL, 1) for split in SPLITS}
    said = ", ".join(f"with `{split}` {memory.amount(sent)}" for split, sent in prefill.items())
    return table(["weights read", "split", "network", "reading", "sending", "tokens/s", "one machine"], rows) + (
        f"\n\nA prompt of {PREFILL:,} tokens sends, all eight machines together, {said}: it is read in one pass, so "
        "its bytes count and not the delays.")


def results_block(entry: dict) -> str:
    """Results that were recorded one by one."""
    return f"{provenance(entry)}.\n\n{rows_table(entry['rows'])}"


PAGES = {
    "files.md": {"forms": forms_block, "gguf_keys": gguf_keys_block},
    "how_a_vision_model_is_scored.md": scoring.BLOCKS,
    "evidence.md": {
        "verify": recorded("verify.json", results_block, "`make verify` runs it"),
        "gguf": recorded("gguf.json", results_block, "tests/verify/test_gguf.py says what it needs"),
        "versions": recorded("versions.json", versions_block, "`make versions` runs it"),
        "fuzz": recorded("fuzz.json", fuzz_block, "`make fuzz` runs it")},
    "clients.md": {"clients": recorded("clients.json", results_block, "tests/verify/clients says how to run it")},
    "served_models.md": {
        "faults": served.faults_block, "templates": served.templates_block, "repairs": served.repairs_block,
        "servers": recorded("served.json", served.servers_block, "tests/verify/engines says how to run it"),
        "cost": recorded("served_cost.json", served.cost_block,
                         "`python -m tutorial.pages.served_record` measures it")},
    "quantised.md": {
        "int8": int8_block,
        "cost": recorded("int8.json", quantised_block, "`python -m tutorial.pages.quantised_record` measures it"),
        "products": recorded("int8.json", products_block, "`python -m tutorial.pages.quantised_record` measures it"),
        "verify": recorded("quantised.json", results_block,
                           "`python -m tutorial.pages.records --quantised FILE` does it")},
    "parallel.md": {
        "parallel": recorded("parallel.json", parallel_block,
                             "`python -m tutorial.pages.parallel_record` measures it"),
        "machines": machines_block},
    "streamed.md": {"streamed": recorded("streaming.json", streamed_block,
                                         "`python -m tutorial.pages.streaming_record FOLDER` measures it")},
    "models.md": {"sizes": sizes_block}, "memory.md": {"memory": memory_block, "context": context_block},
    "speed.md": {"bench": recorded("bench.json", bench_block, "`python -m tiny bench --save` measures it"),
                 "tried": recorded("tried.json", tried_block, "`python -m tutorial.pages.tried` measures it")}}


def main(argv: list[str] | None = None) -> int:
    """Write or check the pages; return the exit status."""
    parser = Parser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something would change")
    pages = {FOLDER / name: blocks for name, blocks in PAGES.items()}
    return refresh_parts(pages, ROOT, parser.parse_args(argv).check, COMMAND)


if __name__ == "__main__":
    program(main)
