"""What llama.cpp reaches on a checkpoint in Mistral's layout: a peer of `bench`, a separate program.

    python -I peer_llama.py FOLDER --prefill=512 --decode=16 --repeats=3

It needs llama-cpp-python and gguf. FOLDER/bench.gguf is written at first use: the same bfloat16 weights, no vocabulary.
The threads are those of OMP_NUM_THREADS; as in `bench` itself, with one thread its processor time counts.
"""

import argparse
import ctypes
import json
import os
import re
import resource
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

NAMES = {"attention.wq": "attn_q", "attention.wk": "attn_k", "attention.wv": "attn_v", "attention.wo": "attn_output",
         "attention_norm": "attn_norm", "ffn_norm": "ffn_norm", "feed_forward.gate": "ffn_gate_inp"}
EXPERTS = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
TOP = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}


def write(folder: Path, path: Path) -> None:
    """Write the checkpoint as GGUF; rows of q and k are in Mistral's order in both."""
    params = json.loads((folder / "params.json").read_text())
    file = np.memmap(folder / "consolidated.safetensors", np.uint8, "r")
    length = int(file[:8].view("<u8")[0])
    header = json.loads(bytes(file[8 : 8 + length]))
    tensors = {name: file[8 + length :][slice(*entry["data_offsets"])].view("<u2").reshape(entry["shape"])
               for name, entry in header.items() if name != "__metadata__"}
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in (("context_length", 32768), ("embedding_length", params["dim"]),
                       ("block_count", params["n_layers"]), ("feed_forward_length", params["hidden_dim"]),
                       ("head_count", params["n_heads"]), ("head_count_kv", params["n_kv_heads"]),
                       ("key_length", params["head_dim"]), ("value_length", params["head_dim"]),
                       ("rope_dimension_count", params["head_dim"]), ("vocab_size", params["vocab_size"]),
                       ("expert_count", params["moe"]["num_experts"]),
                       ("expert_used_count", params["moe"]["num_experts_per_tok"])):
        getattr(writer, f"add_{key}")(value)
    writer.add_layer_norm_rms_eps(params["norm_eps"])
    writer.add_rope_freq_base(params.get("rope_theta", 1e6))
    writer.add_tokenizer_model("no_vocab")

    def add(name: str, values: np.ndarray) -> None:
        if "norm" in name or "gate_inp" in name:  # llama.cpp wants these in float32
            writer.add_tensor(f"{name}.weight", (values.astype(np.uint32) << 16).view(np.float32))
        else:
            writer.add_tensor(f"{name}.weight", values.view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)

    for name, values in tensors.items():
        if found := re.fullmatch(r"layers\.(\d+)\.feed_forward\.experts\.0\.(w\d)\.weight", name):
            all_of_it = [tensors[name.replace("experts.0.", f"experts.{e}.")]
                         for e in range(params["moe"]["num_experts"])]
            add(f"blk.{found[1]}.{EXPERTS[found[2]]}", np.stack(all_of_it))
        elif found := re.fullmatch(r"layers\.(\d+)\.((?!.*experts).*)\.weight", name):
            add(f"blk.{found[1]}.{NAMES[found[2]]}", values)
        elif name.removesuffix(".weight") in TOP:
            add(TOP[name.removesuffix(".weight")], values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Model:
    """A model with a context of its own, for one sequence."""

    def __init__(self, path: Path, tokens: int, threads: int):
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = tokens
        options.n_threads = options.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, options)

    def run(self, ids: list[int]) -> int:
        """Read tokens; the id that is most likely to follow."""
        tokens = (ctypes.c_int32 * len(ids))(*ids)  # a name keeps them until they are read
        status = llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(tokens, len(ids)))
        assert status == 0, f"llama_decode returned {status}"
        size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self.context, -1), (size,))
        assert np.isfinite(logits).all()
        return int(logits.argmax())

    def forget(self) -> None:
        """Empty the cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)


def main() -> None:
    """Measure, and print one JSON object with the keys of `bench`'s own measurement."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    for name in ("prefill", "decode", "repeats"):
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    threads, path = int(os.environ["OMP_NUM_THREADS"]), args.folder / "bench.gguf"
    clock = time.thread_time if threads == 1 else time.perf_counter
    if not path.exists():
        write(args.folder, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    size = json.loads((args.folder / "params.json").read_text())["vocab_size"]
    ids = np.random.default_rng(1).integers(3, size, args.prefill).tolist()
    model = Model(path, args.prefill + (args.repeats + 1) * args.decode, threads)
    model.run(ids[:16])
    first, prefills, decodes, token = time.time(), [], [], 0
    for _ in range(args.repeats + 1):
        model.forget()
        start = clock()
        token = model.run(ids)
        prefills.append(args.prefill / (clock() - start))
    for _ in range(args.repeats + 1):
        start = clock()
        for _ in range(args.decode):
            token = model.run([token])
        decodes.append(args.decode / (clock() - start))
    features = llama_cpp.llama_print_system_info().decode()
    used = [name for name in ("AVX512_BF16", "AMX_INT8") if f"{name} = 1" in features]
    print(json.dumps({"note": f"bfloat16 file; instructions that NumPy cannot use: {', '.join(used) or 'none here'}",
                      "first_token": first, "prefill": statistics.median(prefills[1:]),
                      "decode": statistics.median(decodes[1:]),
                      "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                      "versions": {"llama-cpp-python": version("llama-cpp-python"), "gguf": version("gguf")}}))


if __name__ == "__main__":
    main()
