"""The generated parts of tutorial/reference/: what was measured, and what the models need.

    python -m tutorial.pages.reference            write them
    python -m tutorial.pages.reference --check    exit with 1 if they are not up to date
"""


import tiny
from tiny.config import Config
from tiny.files.params import read_params
from tiny.tools import memory
from tiny.tools.markdown import refresh_parts, table
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B, stand_ins
from tiny.tools.terminal import Parser, program
from tutorial.pages.measure import ROOT
from tutorial.pages.records import provenance, record, rows_table

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


def bench_block() -> str:
    """The recorded benchmarks: of the language model, and of the vision encoder if there is one."""
    entry, vision = record("bench.json"), record("bench_vision.json")
    if not entry:
        return "Not measured yet: `python -m tiny bench --save` measures and records it."
    parts = bench_tables(entry)
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


def verify_block() -> str:
    """What was run by hand against other implementations."""
    entry = record("verify.json")
    if not entry:
        return "Not recorded yet: `make verify` runs it."
    return f"{provenance(entry)}.\n\n{rows_table(entry['rows'])}"


def versions_block() -> str:
    """The tests with the oldest and with the newest packages that are allowed."""
    entry = record("versions.json")
    if not entry:
        return "Not recorded yet: `make versions` runs it."
    runs = [entry["oldest"], entry["newest"]]
    rows = [[name, *(run["versions"][name] for run in runs)] for name in runs[0]["versions"]]
    rows.append(["Python", *(run["python"] for run in runs)])
    rows.append(["tests", *(" ".join(run["tests"]) for run in runs)])
    rows += [[state, *(f"{run[state]:,}" for run in runs)] for state in ("passed", "skipped", "failed")]
    rows.append(["date", *(run["date"] for run in runs)])
    return f"On {runs[0]['machine']}.\n\n{table(['package', 'oldest', 'newest'], rows)}"


def fuzz_block() -> str:
    """How many damaged inputs were read, of what kinds, and the faults that were left."""
    entry = record("fuzz.json")
    if not entry:
        return "Not recorded yet: `make fuzz` runs it."
    faults = f"{entry['faults']:,} distinct faults" if entry["faults"] else "no fault"
    versions = ", ".join(f"{name} {version}" for name, version in entry["versions"].items())
    rows = [[name, f"{found['inputs']:,}", ", ".join(f"{n:,} {what}" for what, n in sorted(found["outcomes"].items())),
             str(len(found["faults"]))] for name, found in entry["targets"].items()]
    first = f"{entry['inputs']:,} damaged inputs of {len(rows)} kinds, seed {entry['seed']}, {entry['date']}"
    return (f"{first}: {faults}, "
            f"with {versions}.\n\n{table(['what is read', 'inputs', 'what became of them', 'faults'], rows)}")


PAGES = {"evidence.md": {"verify": verify_block, "versions": versions_block, "fuzz": fuzz_block},
         "models.md": {"sizes": sizes_block}, "memory.md": {"memory": memory_block}, "speed.md": {"bench": bench_block}}


def main(argv: list[str] | None = None) -> int:
    """Write or check the pages; return the exit status."""
    parser = Parser(prog=COMMAND, description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if something would change")
    pages = {FOLDER / name: blocks for name, blocks in PAGES.items()}
    return refresh_parts(pages, ROOT, parser.parse_args(argv).check, COMMAND)


if __name__ == "__main__":
    program(main)
