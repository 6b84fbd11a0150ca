"""What transformers computes on a folder in Hugging Face's layout, array by array: the child of `verify dump`.

    python -I transformers_child.py REQUEST.json OUT.npz

It runs in a process whose path does not hold this repository, because transformers imports a package named `kernels`
if it finds one. REQUEST is written by dump.py; OUT has the arrays of tests/golden/FORMAT.md and, as `record`, what
this process knows of the run. q and k are reordered from Hugging Face's halves to pairs. With "load": "layers" the
weights of a module are read when it runs and dropped after it, so only the largest module has to fit in memory.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors import safe_open

NAMES = {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "self_attn": "attn",
         "attention": "attn", "attention_norm": "attention_norm", "ffn_norm": "ffn_norm", "": "layer"}
OUTSIDE = {"patch_conv": "patch_conv", "ln_pre": "vision_ln_pre", "multi_modal_projector": "projector", "norm": "norm"}


class Recorder:
    """Collects arrays from hooks while `on`, those of the wanted layers and rows only."""

    def __init__(self, model, layers, positions):
        self.model, self.layers, self.positions, self.on, self.arrays = model, layers, positions, False, {}
        self.depths = {}
        for name, module in model.named_modules():
            self.watch(name, module)
        for name in {type(module).__module__ for module in model.modules()}:
            if hasattr(sys.modules[name], "ALL_ATTENTION_FUNCTIONS"):
                self.watch_attention(sys.modules[name])

    def watch(self, name, module):
        """Hook a module whose output has a stable name."""
        found = re.fullmatch(r"(.*\.)?layers\.(\d+)(?:\.(.*))?", name)
        outside = OUTSIDE.get(name.rpartition(".")[2])
        if found and "." not in (found[3] or ""):
            label, number, part = "vision_" * ("vision" in name), int(found[2]), found[3] or ""
            self.depths[label] = max(self.depths.get(label, 0), number + 1)
            if part in NAMES:
                module.register_forward_hook(lambda m, i, out: self.keep(label + NAMES[part], out, number))
            if part in ("self_attn", "attention"):
                module.place = label, number
                module.o_proj.register_forward_hook(lambda m, i, out: self.keep(label + "mix", i[0], number))
        elif found and found[3] == "mlp.gate":
            module.register_forward_hook(lambda m, i, out: self.keep_routing(out, int(found[2])))
        elif outside and not found:
            module.register_forward_hook(lambda m, i, out: self.keep(outside, out))
        elif name.endswith("language_model") or name == "model" and not hasattr(module, "language_model"):
            module.layers[0].register_forward_pre_hook(lambda m, args: self.keep("embed", args[0]))

    def watch_attention(self, home):
        """Wrap the attention functions of one file of transformers, so that queries, keys and values are recorded."""
        functions, keep = home.ALL_ATTENTION_FUNCTIONS, self.keep

        class Watched:
            @staticmethod
            def get_interface(name, default):
                inner = functions.get_interface(name, default)

                def call(module, query, key, value, *args, **options):
                    label, number = module.place
                    for what, x in (("q", query), ("k", key), ("v", value)):
                        keep(label + what, as_pairs(x) if what in "qk" else x[0].transpose(0, 1), number)
                    return inner(module, query, key, value, *args, **options)
                return call
        home.ALL_ATTENTION_FUNCTIONS = Watched

    def keep_routing(self, output, number):
        """Keep the logits, weights and choices of one router."""
        for name, x in zip(("router_logits", "expert_weights", "experts"), output):
            self.keep(name, x, number)

    def keep(self, name, x, number=None):
        """Keep an array if it is wanted. A wanted layer also needs the output of the layer before it."""
        if not self.on:
            return
        x = x[0] if isinstance(x, tuple) else x
        of_patches = name.startswith("vision_") or name in ("patch_conv", "projector")
        if number is not None and self.layers is not None:
            last = self.depths["vision_" * name.startswith("vision_")] - 1
            inputs = name.endswith("layer") and (number + 1 in self.layers or of_patches and number == last)
            if number not in self.layers and not inputs:
                return
        if name == "patch_conv":
            self.arrays.setdefault(name, x)  # of the padded images; `patches` cuts them
            return
        x = x[0] if x.ndim == 3 and x.shape[0] == 1 and name.rpartition("_")[2] not in ("q", "k", "v") else x
        x = x.float() if x.is_floating_point() else x
        if self.positions is not None and not of_patches and name not in ("k", "v"):
            x = x[self.positions]
        self.arrays[name if number is None else f"{name}{number:02}"] = x.detach().numpy().copy()


def as_pairs(x):
    """Queries or keys (1, n, T, d) in halves -> (T, n, d) in interleaved pairs."""
    _, n, T, d = x.shape
    return x[0].reshape(n, T, 2, d // 2).transpose(-1, -2).reshape(n, T, d).transpose(0, 1)


def read_inputs(request):
    """Ids and pixels by mistral-common if it is there and the folder has a tokenizer, else those that were sent."""
    sent = np.load(request["inputs"])
    pixels = [sent[f"pixels{n}"] for n in range(len(request["images"]))]
    try:
        import mistral_common
        from mistral_common.protocol.instruct.chunk import ImageURLChunk, TextChunk
        from mistral_common.protocol.instruct.messages import UserMessage
        from mistral_common.protocol.instruct.request import ChatCompletionRequest
        from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
    except ImportError:
        return sent["ids"].tolist(), pixels, "tiny"
    tokenizer = MistralTokenizer.from_file(request["tokenizer"])
    by = f"mistral-common {mistral_common.__version__}"
    if not request["chat"]:
        return tokenizer.instruct_tokenizer.tokenizer.encode(request["prompt"], bos=True, eos=False), [], by
    chunks = [*(ImageURLChunk(image_url=f"file://{path}") for path in request["images"]),
              TextChunk(text=request["prompt"])]
    try:
        encoded = tokenizer.encode_chat_completion(ChatCompletionRequest(messages=[UserMessage(content=chunks)]))
    except ImportError:  # mistral-common without OpenCV cannot resize pictures.
        return sent["ids"].tolist(), pixels, "tiny"
    return encoded.tokens, [np.asarray(image, np.float32) for image in encoded.images], by


def padded(images):
    """The images as one tensor, zeros at the right and at the bottom, and their sizes."""
    if not images:
        return {}
    sizes = [image.shape[1:] for image in images]
    pixels = np.zeros((len(images), 3, *np.max(sizes, axis=0)), np.float32)
    for row, image in zip(pixels, images):
        row[:, : image.shape[1], : image.shape[2]] = image
    return {"pixel_values": torch.from_numpy(pixels), "image_sizes": torch.tensor(sizes)}


def patches(x, images, size):
    """The output of the convolution over padded images (n, D, h, w) -> (N, D)."""
    grids = [(image.shape[1] // size, image.shape[2] // size) for image in images]
    cut = [plane[:, :h, :w].flatten(1).T for plane, (h, w) in zip(x, grids)]
    return torch.cat(cut).float().numpy()


def load(request, dtype):
    """The model: whole, as everybody loads it, or with weights that are read when they are used."""
    config = transformers.AutoConfig.from_pretrained(request["folder"])
    options = {"dtype": dtype, "attn_implementation": request["attention"]}
    if config.model_type == "mixtral":
        options["experts_implementation"] = request["experts"]
    kind = transformers.LlavaForConditionalGeneration if config.model_type == "llava" else (
        transformers.AutoModelForCausalLM)
    if request["load"] == "whole":
        model, report = kind.from_pretrained(request["folder"], output_loading_info=True, **options)
        if any(report.values()):
            raise SystemExit(f"transformers does not find every tensor: {report}")
        return model.eval()
    with torch.device("meta"):
        model = getattr(kind, "_from_config" if hasattr(kind, "_from_config") else "from_config")(config, **options)
    files: dict = {}
    for path in request["files"]:
        file = safe_open(path, "pt")
        files |= {plain(key): (file, key) for key in file.keys()}
    for name, module in list(model.named_modules()):
        if "inv_freq" in dict(module.named_buffers(recurse=False)):
            model.set_submodule(name, type(module)(module.config))
        if dict(module.named_parameters(recurse=False)):
            read_when_called(name, module, files, dtype)
    return model.eval()


def read_when_called(name, module, files, dtype):
    """Read the parameters of one module before each of its calls, and drop them after it."""
    empty = dict(module._parameters)

    def read(*_):
        for key, x in empty.items():
            if x is not None:
                value = read_tensor(f"{name}.{key}", files).to(dtype)
                module._parameters[key] = torch.nn.Parameter(value, requires_grad=False)

    module.register_forward_pre_hook(read)
    module.register_forward_hook(lambda *_: module._parameters.update(empty))


def plain(name):
    """A tensor's name without the prefixes of its part, which differ between files and versions of transformers."""
    name = re.sub(r"^(?:(?:model|language_model)\.)+", "", name)
    return name.replace(".block_sparse_moe.", ".mlp.")


def read_tensor(name, files):
    """One tensor by its name in memory. There the experts of a layer are stacked; in the files they may be."""
    name = plain(name)
    if name not in files and ".mlp.experts." in name:
        prefix, _, part = name.rpartition(".")
        count = len({key.split(".")[4] for key in files if key.startswith(prefix + ".")})
        parts = ("w1", "w3") if part == "gate_up_proj" else ("w2",)
        return torch.stack([torch.cat([read_tensor(f"{prefix}.{e}.{one}.weight", files) for one in parts])
                            for e in range(count)])
    file, key = files[name]
    return file.get_tensor(key)


def configuration(config):
    """What the run was configured with, of the settings that implementations read differently."""
    parts = {"decoder": getattr(config, "text_config", config), "encoder": getattr(config, "vision_config", None)}
    found = {}
    for label, part in parts.items():
        if part is not None:
            rope = dict(getattr(part, "rope_parameters", None) or {})
            found[label] = {"theta": rope.pop("rope_theta", getattr(part, "rope_theta", None)), "scaling": rope or None}
            names = {"rms_norm_eps": "eps", "sliding_window": "window", "max_position_embeddings": "context"}
            found[label] |= {ours: getattr(part, key) for key, ours in names.items() if hasattr(part, key)}
    return found


def main(request_file: str, out: str) -> None:
    """Run the prompt once with everything recorded, then go on greedily."""
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    ids, images, by = read_inputs(request)
    positions = request["positions"] and sorted({p % len(ids) for p in request["positions"]})
    model = load(request, {"float32": torch.float32, "bfloat16": torch.bfloat16}[request["precision"]])
    recorder = Recorder(model, request["layers"], positions)
    tokens, gaps = [], []
    with torch.inference_mode():
        recorder.on = True
        step = model(torch.tensor([ids]), use_cache=True, **padded(images))
        recorder.on, arrays = False, recorder.arrays
        logits = step.logits[0].float().numpy()
        for _ in range(request["max_tokens"]):
            best = step.logits[0, -1].float().topk(2)
            tokens.append(int(best.indices[0]))
            gaps.append(float(best.values[0] - best.values[1]))
            if len(tokens) < request["max_tokens"]:
                step = model(torch.tensor([tokens[-1:]]), past_key_values=step.past_key_values, use_cache=True)
    if images:
        arrays["patch_conv"] = patches(arrays["patch_conv"], images, model.config.vision_config.patch_size)
        arrays["grids"] = np.array([(x.shape[2], x.shape[1]) for x in images]) // model.config.vision_config.patch_size
    arrays |= {f"pixels{n}": x for n, x in enumerate(images)} | {"ids": np.array(ids)}
    arrays["logits"] = logits if positions is None else logits[positions]
    if positions is not None:
        arrays["positions"] = np.array(positions)
    if tokens:
        arrays |= {"greedy_tokens": np.array(tokens), "greedy_gaps": np.array(gaps, np.float32)}
    record = {"implementation": f"transformers {transformers.__version__}", "inputs": by,
              "versions": {"transformers": transformers.__version__, "torch": torch.__version__,
                           "numpy": np.__version__, "python": sys.version.split()[0]},
              "configuration": configuration(model.config),
              "attention": request["attention"], "experts": request["experts"], "load": request["load"],
              "threads": torch.get_num_threads(), "instruction set": torch.backends.cpu.get_cpu_capability()}
    np.savez(out, record=np.array(json.dumps(record)), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
