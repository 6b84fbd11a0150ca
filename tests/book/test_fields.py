"""Every `Raises:` and `Dtypes:` of the book is true: for each clause a call that ends so, for each dtype a result.

The operations have their refusals in test_guards.py, from where they are counted. A function with such a line and
without an entry here fails.
"""

import ast
import functools
import importlib
import json
import mmap
import os
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
import small
from house import HELD, functions
from pictures import bomb
from PIL import Image

import tiny
from tests.book import test_guards
from tiny.chat import Turn
from tiny.config import TinyError
from tiny.decoder import ForwardPass
from tiny.files.checkpoint import Checkpoint
from tiny.files.params import KEYS
from tiny.files.streamed import Streamed
from tiny.generate import ExpertTrace
from tiny.kv_cache import KVCache
from tiny.mixtral import Mixtral
from tiny.pixtral import ImageRows, Pixtral
from tiny.system.direct import Arrival, DirectReader, Span
from tiny.system.whole import lock
from tiny.tekken import SPECIAL_TOKENS, TekkenTokenizer

FLOAT16, FLOAT32, FLOAT64 = np.float16, np.float32, np.float64
BFLOAT16 = ml_dtypes.bfloat16
SIZES = small.sizes()
SEEING = small.sizes(None, vision=small.vision_sizes())
BYTES = [bytes([n]) for n in range(256)]
PATH = Path("some.json")
PIXELS = np.zeros((3, 8, 4), FLOAT32)  # two rows of one patch
USER = {"role": "user", "content": "a"}
SMALL_PARAMS = small.params(SIZES)
SMALL_TENSORS = small.random_tensors(SIZES)
VISION = small.params(SEEING)["vision_encoder"]
LLAVA = small.hf_config(SEEING)


def without(mapping, key):
    return {name: value for name, value in mapping.items() if name != key}


@functools.cache
def subject(name):
    """An object of the book that has methods."""
    return {"Mixtral": lambda: Mixtral(SIZES, small.random_tensors(SIZES, dtype=FLOAT32)),
            "Pixtral": lambda: Pixtral(SEEING, small.random_tensors(SEEING, dtype=FLOAT32)),
            "KVCache": lambda: KVCache(2, 2, 4, [3, 3]),
            "SentencePieceTokenizer": lambda: tiny.load_tokenizer(tiny.model_folder("tiny-mixtral")),
            "TextStream": lambda: subject("SentencePieceTokenizer").stream(),
            "TekkenTokenizer": lambda: tiny.load_tokenizer(tiny.model_folder("tiny-pixtral")),
            "TekkenStream": lambda: subject("TekkenTokenizer").stream(),
            "Streamed": lambda: SimpleNamespace(allow=functools.partial(Streamed.allow, SimpleNamespace(least=10))),
            "DirectReader": lambda: DirectReader([])}[name]()


def failed_arrival():
    arrival = Arrival("a tensor", Span("a file", 0, 1), mmap.mmap(-1, 1))
    arrival.fail(TinyError("A disk error.", "Buy another one."))
    return arrival


@functools.cache
def found_functions():
    """Each function and method of the book and of `system` by name; two of one name with their modules in front."""
    listed = [(name, function, node) for name, path in HELD.items() for function, node in functions(path)]
    listed += [(name, f"{function}.__call__", method) for name, function, node in listed
               if isinstance(node, ast.ClassDef)
               for method in node.body if getattr(method, "name", "") == "__call__"]
    names = [function for _, function, _ in listed]
    return {function if names.count(function) == 1 else f"{name.split('.')[-1]}.{function}": (name, function, node)
            for name, function, node in listed}


def field(name: str, label: str) -> str:
    """The text of a field of a function's docstring, or of the sentence that stands for it."""
    doc = ast.get_docstring(found_functions()[name][2]) or ""
    found = re.search(rf"(?:^|[.] ){label}[ ]+(.*(?:\n[ ]+.*)*)", doc, re.M)
    found = found or label == "Raises:" and re.search(r"\bRaises? ((?:Tiny|Value)Error\b.*)", doc)
    return " ".join(found[1].split()) if found else ""


def function_of(name: str):
    """The function itself, or the method of an object."""
    module, function, _ = found_functions()[name]
    owner, _, method = function.rpartition(".")
    home = importlib.import_module("tiny" if module == "__init__" else f"tiny.{module}")
    if owner and isinstance(getattr(home, owner).__dict__[method], property):
        return lambda: getattr(subject(owner), method)
    return getattr(subject(owner) if owner else home, function.rpartition(".")[2])


class Of:
    """Another object than `subject` gives, for its method."""

    def __init__(self, value):
        self.value = value


class Made:
    """An argument that is made from the test's folder."""

    def __init__(self, make):
        self.make = make


def written(name, data):
    """The path of a file with these bytes, or of this JSON."""
    def make(folder):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return path
    return Made(make)


def picture_file(name="p.png", cut=None, size=(4, 4)):
    def make(folder):
        Image.new("RGB", size).save(folder / name)
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:cut])
        return folder / name
    return Made(make)


def checkpoint(change=lambda folder: None):
    """A small checkpoint in the test's folder, with something changed in it."""
    def make(folder):
        small.write_mistral(folder / "model", SIZES, small.random_tensors(SIZES))
        change(folder / "model")
        return folder / "model"
    return Made(make)


def tensor_file(change):
    """A safetensors file of one tensor with its header changed."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return written("w.safetensors", small.raw_file({"w": entry | change}, bytes(8)))


def tensors_of(folder, change):
    tensors = small.random_tensors(SIZES)
    change(tensors)
    (folder / "a.safetensors").write_bytes(small.file_bytes(tensors))
    return [folder / "a.safetensors"]


def linked(path):
    """A link to nothing."""
    path.symlink_to("nothing")
    return path


def being_filled(folder):
    """A name for which another writer fills a folder."""
    (folder / "a.00000000.part").mkdir()
    lock(os.open(folder / "a.00000000.part", os.O_RDONLY))
    return folder / "a"


def with_index(content):
    """A folder in HF's layout with such an index."""
    def make(folder):
        small.write_hf(folder / "model", SIZES, small.random_tensors(SIZES))
        (folder / "model/model.safetensors").unlink()
        written("model/model.safetensors.index.json", content).make(folder)
        return folder / "model"
    return Made(make)


def of_tokenizer(config, name, data=None):
    """An opened checkpoint of a configuration, with a tokenizer beside it: an embedded one, or one of these bytes."""
    def make(folder):
        own = tiny.model_folder("tiny-mixtral" if name == "tokenizer.model" else "tiny-pixtral") / name
        (folder / name).write_bytes(own.read_bytes() if data is None else data)
        return Checkpoint("mistral", folder / "params.json", config, [], {})
    return Made(make)

def damaged_model(name="layers.1.attention_norm.weight", value=np.nan):
    """A model whose weights hold a NaN, or another number, at one place."""
    tensors = small.random_tensors(SIZES, dtype=FLOAT32)
    tensors[name].flat[3] = value
    return Mixtral(SIZES, tensors)


OUTSIDE = [("outside of the vocabulary", 10**6)]
OUTSIDE_ROW = [("outside of the vocabulary", [10**6]), ("not a whole number", [1.5])]
MESSAGES = [("Message 2", [USER, 7]), ("Message 1", [{"role": "user"}])]
# A model that reads the text of its control token as that token, as sentencepiece 0.2.2 does with a crafted file.
CRAFTED = SimpleNamespace(vocab_size=lambda: 1, id_to_piece=lambda ids: ["<s>"] * len(ids), encode=lambda text: [0],
                          is_control=lambda ids: [True] * len(ids) if isinstance(ids, list) else True)
CONTROL = Made(lambda folder: subject("SentencePieceTokenizer"))
TEXT_TEKKEN = TekkenTokenizer(list(SPECIAL_TOKENS), BYTES)
IMAGE_TURN = [Turn("user", [{"type": "image", "image": Image.new("RGB", (4, 4))}])]
LOST_TURN = [Turn("user", [{"type": "image", "image": "gone.png"}])]
IMAGE_CHAT = [{"role": "user", "content": [{"type": "image", "image": "gone.png"}]}]
SPECIAL = [{"rank": n, "token_str": name} for n, name in enumerate(SPECIAL_TOKENS)]
WORD = {"rank": 0, "token_bytes": "AA=="}
TEKKEN = {"config": {"version": "v3", "pattern": tiny.tekken.PATTERN, "default_vocab_size": 276,
                     "default_num_special_tokens": 20}, "vocab": []}

def caches(*names):
    """A Hugging Face cache with these snapshots of models."""
    def make(folder):
        for name in names:
            (folder / f"models--{name}").mkdir(parents=True)
        return folder
    return Made(make)


MODELS = ("is a cache of 2 models", caches("a--b/snapshots/1", "a--c/snapshots/1"))
SNAPSHOTS = ("holds several snapshots", caches("a--b/snapshots/1", "a--b/snapshots/2"))
BAD_FOLDERS = [
    ("is not a folder", Path("no/folder")),
    ("holds neither", checkpoint(lambda folder: (folder / "params.json").unlink())),
    ("lacks the tensor", checkpoint(lambda folder: (folder / "consolidated.safetensors").write_bytes(
        small.file_bytes(without(small.random_tensors(SIZES), "norm.weight"))))),
    ("not valid JSON", checkpoint(lambda folder: (folder / "params.json").write_text("{"))),
    ("two models", checkpoint(lambda folder: (folder / "params.json").write_text(
        json.dumps(SMALL_PARAMS | {"dim": 26}))))]
# For each clause of a `Raises:` line: words of the message, then the arguments that must end in it.
RAISES = {
    "need": [("not an array", "f", "x", [1.0], None), ("expects x (T, D)", "f", "x", np.zeros(3, FLOAT32), ("T", "D")),
             ("of float32", "f", "x", np.zeros(3), None)],
    "check_precision": [("precision", "fp16")],
    "used_experts": [("ids from 0 to 2", np.array([[0, 3]]), 3), ("different experts", np.array([[1, 1]]), 3)],
    "check_spans": [("adding up to 3", 3, 5, [2], [(0, 3)]), ("spans inside", 3, 5, [3], [(3, 6)]),
                    ("hold their own", 3, 5, [3], [(0, 2)])],
    "patches": [("pixels (C, H, W)", np.zeros((4, 4), FLOAT32), 2), ("multiples of 2", np.zeros((3, 4, 5), FLOAT32), 2),
                ("multiples of 2", np.zeros((3, 0, 4), FLOAT32), 2)],
    "KVCache": [("precision", 1, 1, 2, [3], "float16")],
    "KVCache.append": [("of float32", 0, np.zeros((1, 2, 4)), np.zeros((1, 2, 4)), [1, 0]),
                       ("one row for each", 0, *[np.zeros((1, 1, 4), FLOAT32)] * 2, [1, 0]),
                       ("Ask new_cache for more", 0, *[np.zeros((4, 2, 4), FLOAT32)] * 2, [4, 0])],
    "Mixtral.tokenizer": [("no tokenizer",)],
    "Mixtral.new_cache": [("None tokens", None), ("0 tokens", 0), ("1.5", [1.5]),
                          ("cache='float16' is unknown", 4, "float16")],
    "known": [("cache='half' is unknown", "cache", "half")],
    "Mixtral.__call__": [("one row", [[1]]), ("token id", ["1"]), ("not in the vocabulary", [40]),
                         ("Give a list", [1], None), ("text only", [1], [PIXELS]), ("add up", [1], (), None, [2]),
                         ("sequences", [1], (), Made(lambda _: subject("Mixtral").new_cache([2, 2]))),
                         ("longer than the context", [1] * 65)],
    "check_ids": [("the text 'Once'", "Once"), ("at least one", []), ("one row", [[1, 2], [3]]), ("object", None)],
    "check_list": [("NoneType", None), ("one Image", Image.new("RGB", (4, 4))), ("one str", "a.png")],
    "sample": [("random generator", np.zeros(4, FLOAT32), 1.0, 1.0, None)],
    "check_sampling": [("max_tokens is 0", 0, 0.0, 1.0), ("max_tokens is None", None, 0.0, 1.0),
                       ("temperature is -1", 1, -1, 1.0), ("temperature is nan", 1, float("nan"), 1.0),
                       ("temperature is '1'", 1, "1", 1.0), ("top_p is 0", 1, 0.0, 0), ("top_p is 2", 1, 0.0, 2),
                       ("top_p is None", 1, 0.0, None), ("seed is -1", 1, 0.0, 1.0, -1),
                       ("seed is 'x'", 1, 0.0, 1.0, "x")],
    "generate": [("the text 'Once'", subject("Mixtral"), "Once"), ("at least one", subject("Mixtral"), []),
                 ("64 tokens", subject("Mixtral"), [1] * 64), ("max_tokens", subject("Mixtral"), [1], (), None),
                 ("NoneType", subject("Mixtral"), [1], None), ("'layer01'", damaged_model(), [1]),
                 ("one Image", subject("Pixtral"), [1], Image.new("RGB", (4, 4)))],
    "run_finite": [("'layer01'", damaged_model(), [1]), ("'logits'", damaged_model("output.weight"), [1]),
                   ("'layer00'", damaged_model("layers.0.feed_forward.gate.weight", -np.inf), [1, 5], (), None, None,
                    ExpertTrace())],
    "generate_batch": [("max_tokens", subject("Mixtral"), [[1]], (), 0), ("one str", subject("Mixtral"), "Once"),
                       ("one row", subject("Mixtral"), [1, 2]), ("NoneType", subject("Mixtral"), None)],
    "chat.check_style": [("mistral or", "x")],
    "chat.normalise": [("has no 'content'", [{"role": "user"}]),
                       ("follows an answer", [USER, {"role": "assistant", "content": "b"},
                                              {"role": "system", "content": "c"}, USER])],
    "encode_v1": [("holds an image", IMAGE_TURN, CONTROL)],
    "check_messages": [("Message 1", [7]), ("empty list", []),
                       ("Message 1 is a prefix", [{"role": "assistant", "content": "b", "prefix": True}, USER])],
    "check_order": [("only message", ["assistant"]), ("Message 3", ["user", "assistant", "system"])],
    "check_message": [("M1 is a int", "M1", 7)],
    "check_content": [("M1 has content", "M1", {"role": "user", "content": 7})],
    "SentencePieceTokenizer.encode": [("type bytes", b"a"), ("surrogate", "\ud800")],
    "SentencePieceTokenizer.decode": OUTSIDE_ROW,
    "SentencePieceTokenizer.pieces": OUTSIDE_ROW,
    "SentencePieceTokenizer.encode_chat": [*MESSAGES, ("holds an image", IMAGE_CHAT), ("chat style", [USER], "x")],
    "TextStream.push": OUTSIDE,
    "check_text": [("type int", 7)],
    "check_id": [("Token id 1.5 is not a whole", 1.5, 3), ("outside", 3, 3), ("outside", -1, 3)],
    "image_grid": [("style", 4, 4, 2, 8, "x"), ("whole numbers", 0, 4), ("whole numbers", 4.0, 4),
                   ("whole numbers", 4, 2**31 + 1)],
    "preprocess": [("does not exist", "gone.png"), ("style", Image.new("RGB", (4, 4)), 16, 8, "x"),
                   ("nothing is left", Image.new("RGB", (64, 1)), 2, 8, "hf")],
    "resize_cubic": [("uint8", np.zeros((4, 4, 3), FLOAT64), 2, 2), ("(y, x, 3)", np.zeros((4, 4), np.uint8), 2, 2)],
    "image.normalise": [("float32", np.zeros((4, 4, 3), FLOAT64)), ("(H, W, 3)", np.zeros((4, 4), FLOAT32))],
    "Pixtral.check_images": [("Image 1 is an array", np.array([1]), [np.zeros((1, 4, 4), FLOAT32)], False),
                             ("have 2 patches", np.array([1]), [PIXELS], False),
                             ("have 0 patches", np.array([7]), [], False),
                             ("1 [IMG] tokens, the images have 0 rows left", np.array([7]), ImageRows()),
                             ("not those", np.array([7, 7, 9]), [PIXELS], False)],
    "splice": [("got 2 rows", np.zeros((2, 4), FLOAT32), np.array([7, 9]), np.ones((2, 4), FLOAT32), 7)],
    "vision_of": [("vision encoder", SIZES)],
    "check_pixels": [("Image 1 is an array", np.zeros((3, 5, 4), FLOAT32), 1, SEEING.vision),
                     ("36 x 8 pixels", np.zeros((3, 8, 36), FLOAT32), 1, SEEING.vision)],
    "encode_v3": [("does not exist", LOST_TURN, Made(lambda _: subject("TekkenTokenizer"))),
                  ("text only", IMAGE_TURN, TEXT_TEKKEN)],
    "TekkenTokenizer.encode": [("type int", 7)],
    "TekkenTokenizer.decode": OUTSIDE_ROW,
    "TekkenTokenizer.bytes_of": OUTSIDE,
    "TekkenTokenizer.pieces": OUTSIDE_ROW,
    "TekkenTokenizer.special_id": [("no special token [X]", "[X]")],
    "TekkenTokenizer.encode_image": [("does not exist", "gone.png"), ("text only", Of(TEXT_TEKKEN), "gone.png")],
    "TekkenTokenizer.encode_chat": [*MESSAGES, ("does not exist", IMAGE_CHAT), ("chat style", [USER], "x")],
    "TekkenStream.push": OUTSIDE,
    "find_snapshot": [(*MODELS, []), (*SNAPSHOTS, [])],
    "find_folder": [MODELS, SNAPSHOTS], "model_folder": [MODELS, SNAPSHOTS],
    "load": BAD_FOLDERS, "open_checkpoint": BAD_FOLDERS,
    "find_files": [("holds neither", Made(lambda folder: folder))],
    "weight_files": [("not valid JSON", with_index(b"{"), "hf"),
                     ("lacks a.safetensors", with_index({"weight_map": {"w": "a.safetensors"}}), "hf")],
    "open_tokenizer": [("SentencePiece", of_tokenizer(SIZES, "tokenizer.model", b"x")),
                       ("2048 pieces", of_tokenizer(SIZES, "tokenizer.model")),
                       ("patch_size is 4", of_tokenizer(replace(SEEING, vocab_size=603), "tekken.json"))],
    "read_json": [("does not exist", PATH), ("not valid JSON", written("a.json", b"{")),
                  ("the key 'a' twice", written("a.json", b'{"a": 1, "a": 2}')),
                  ("holds a list", written("a.json", []))],
    "read_params": [("has no 'dim'", written("params.json", without(SMALL_PARAMS, "dim"))),
                    ("positive", written("params.json", SMALL_PARAMS | {"dim": -1})),
                    ("sets yarn", written("params.json", SMALL_PARAMS | {"yarn": {"factor": 2}}))],
    "read_vision": [("has no 'patch_size'", without(VISION, "patch_size"), PATH),
                    ("positive", VISION | {"patch_size": 0}, PATH),
                    ("spatial_merge_size", VISION | {"spatial_merge_size": 2}, PATH)],
    "read_file": [("does not exist", PATH, 9), ("is a folder", Made(lambda folder: folder), 9),
                  ("cannot be read", Path(300 * "x"), 9),
                  ("is empty", written("a", b""), 2), ("more than 2 bytes", written("a", b"abc"), 2),
                  ("web page", written("a", b"<html>"), 9),
                  ("GGUF", written("a", b"GGUF"), 9),
                  ("not there", Made(lambda folder: linked(folder / "a")), 9)],
    "check_plain": [("is a folder", Made(lambda folder: folder)), ("more than 2 bytes", written("a", b"abc"), 2),
                    ("No such file", PATH)],
    "parse_object": [("not valid JSON", b"{", PATH), ("the key 'a' twice", b'{"a": 1, "a": 2}', PATH),
                     ("holds a list", b"[]", PATH)],
    "write_whole": [("No such file", Path("no/folder"), b"a"),
                    ("No such device", Made(lambda folder: os.mkfifo(folder / "pipe") or folder / "pipe"), b"a")],
    "whole_folder": [("is being written", Made(being_filled)),
                     ("not empty", Made(lambda folder: written("a/b", b"").make(folder).parent))],
    "check_foreign": [("Git LFS", PATH, b"version https://git-lfs.github.com/spec/v1")],
    "check_keys": [("sets causal = False", {"causal": False}, KEYS["params"], PATH, "remedy")],
    "smallest_window": [("must be a positive", [["x"]], PATH)],
    "end_ids": [("eos_token_id", {"eos_token_id": "2"}, PATH)],
    "read_generation": [("not valid JSON", written("generation_config.json", b"{"), SIZES)],
    "read_tensors": [("once more", Made(lambda folder: 2 * tensors_of(folder, lambda t: None)))],
    "take_tensors": [("lacks the tensor norm.weight", "mistral", without(SMALL_TENSORS, "norm.weight"), SIZES, PATH),
                     ("tensors that the model has not", "mistral", SMALL_TENSORS | {"x": np.ones(2)}, SIZES, PATH),
                     ("the configuration says", "mistral", SMALL_TENSORS | {"norm.weight": np.ones(2)}, SIZES, PATH)],
    "open_files": [("once more", Made(lambda folder: 2 * tensors_of(folder, lambda t: None)), written("a.json", {})),
                   ("by 'x'", [], written("a.json", {"quantization_config": {"quant_method": "x"}}))],
    "choose_mode": [("is unknown", "x", {})],
    "Streamed.allow": [("need 10 bytes", 9)],
    "DirectReader.wait": [("A disk error", Made(lambda folder: failed_arrival()))],
    "no_header": [("is a web page", PATH, b"<html>", 6), ("is a GGUF file", PATH, b"GGUF", 4)],
    "require_shards": [("lacks a-00001-of-00002.safetensors, a-00002", Made(
        lambda folder: [folder / "a-00001-of-00002.safetensors"]))],
    "require": [("lacks some.json, which is listed", [PATH], "which is listed")],
    "add_names": [("2048 pieces, the model 40", Made(lambda _: tiny.load_tokenizer(tiny.model_folder("tiny-mixtral"))),
                   Checkpoint("mistral", PATH, SIZES, [], {}))],
    "added_names": [("not valid JSON", Made(lambda folder: written("added_tokens.json", b"{").make(folder).parent))],
    "SentencePieceTokenizer.in_file": OUTSIDE,
    "number": [("has no 'a'", {}, "a", PATH), ("must be a positive", {"a": "7"}, "a", PATH),
               ("must be a positive whole", {"a": 1.5}, "a", PATH)],
    "checked": [("divide", PATH, small.sizes(n_kv_heads=4))],
    "check_vision": [("Heads", PATH, small.vision_sizes(num_attention_heads=7), 40)],
    "read_hf_config": [("has no 'hidden_size'", written("config.json", without(small.hf_config(SIZES), "hidden_size"))),
                       ("rope_theta", written("config.json", without(small.hf_config(SIZES), "rope_theta"))),
                       ("attention_bias", written("config.json", small.hf_config(SIZES, attention_bias=True)))],
    "read_llava": [("model_type", LLAVA | {"vision_config": LLAVA["vision_config"] | {"model_type": "clip"}}, PATH),
                   ("has no 'patch_size'", LLAVA | {"vision_config": without(LLAVA["vision_config"], "patch_size")},
                    PATH),
                   ("projector_hidden_act", LLAVA | {"projector_hidden_act": "relu"}, PATH)],
    "unique": [("a", [("a", 1), ("a", 2)])],
    "section": [("no object 'a'", {}, "a", PATH), ("no object 'a'", {"a": 1}, "a", PATH)],
    "rope_theta": [("has no 'rope_theta'", {}, ("default",), PATH),
                   ("rope_type", {"rope_parameters": {"rope_type": "yarn"}}, ("default",), PATH),
                   ("several thetas", {"rope_theta": 1, "rope_parameters": {"rope_theta": 2}}, ("default",), PATH)],
    "read_safetensors": [("header would end", written("w.safetensors", (1 << 20).to_bytes(8, "little"))),
                         ("not JSON", written("w.safetensors", small.raw_file({}, b"")[:8] + b"{{")),
                         ("has dtype 'I64'", tensor_file({"dtype": "I64"})),
                         ("claims bytes", tensor_file({"data_offsets": [0, 4]})),
                         ("claims bytes", tensor_file({"shape": [4], "data_offsets": [0, 16]})),
                         ("claims bytes", tensor_file({"shape": [1], "data_offsets": [4, 8]})),
                         ("tensors end at", tensor_file({"shape": [1], "data_offsets": [0, 4]}))],
    "indexed_files": [("lacks a.safetensors", written("i.json", {"weight_map": {"w": "a.safetensors"}})),
                      ("weight_map", written("i.json", {"weight_map": {"w": "../a.safetensors"}}))],
    "open_tensors": [(words, "mistral", Made(lambda folder, change=change: tensors_of(folder, change)), SIZES)
                     for words, change in (("lacks the tensor norm.weight", lambda t: t.pop("norm.weight")),
                                           ("tensors that the model has not", lambda t: t.update(x=t["norm.weight"])),
                                           ("the configuration says", lambda t: t.update(
                                               {"norm.weight": np.ones(9, FLOAT32)})))] + [
        ("once more", "mistral", Made(lambda folder: 2 * tensors_of(folder, lambda t: None)), SIZES)],
    "load_tokenizer": [("does not exist", "no/tokenizer.model"), ("is empty", written("tokenizer.model", b"")),
                       ("not valid JSON", written("tekken.json", b'{"config"')), ("not a", written("x.model", b"x"))],
    "find_tokenizer": [("holds no tokenizer.model", Made(lambda folder: folder))],
    "has_encoder": [("not valid JSON", Made(lambda folder: written("params.json", b"{").make(folder).parent))],
    "open_sentencepiece": [("damaged", PATH, b"\n\x05"), ("damaged", PATH, b"something else")],
    "check_control_pieces": [("turns the text '<s>'", PATH, CRAFTED)],
    "open_tekken": [("not valid JSON", PATH, b"{"), ("do not go with", PATH, json.dumps(TEKKEN).encode()),
                    ("not a Tekken file", PATH, b"{}")],
    "token_bytes": [("entry 0", [entry], PATH) for entry in
                    (WORD | {"token_bytes": "?"}, WORD | {"token_bytes": ""}, WORD | {"rank": 1},
                     WORD | {"token_bytes": "AQ=="})] + [("entry 1", [WORD, WORD | {"rank": 1}], PATH)],
    "special_names": [("special tokens", [*SPECIAL[:3], SPECIAL[3] | {"token_str": "<s>"}], 4, PATH),
                      ("special tokens", SPECIAL[::-1], 20, PATH), ("special tokens", SPECIAL, 19, PATH)],
    "image_sizes": [("has no", {"image": {"max_image_size": 8}}, PATH),
                    ("positive", {"image": {"image_patch_size": 0, "max_image_size": 8}}, PATH),
                    ("merges", {"image": {"image_patch_size": 2, "max_image_size": 8, "spatial_merge_size": 2}}, PATH)],
    "check_source": [("type bytes", b"\x89PNG"), ("type list", [[0]]), ("is an address", "file:///a.png"),
                     ("data URL", "data:image/png;base64,aaaa")],
    "check_size": [("at least one pixel", (0, 5), "It"), ("million pixels", (16_000, 8_001), "It")],
    "open_file": [("is an address", "https://example.com/a.png"), ("does not exist", PATH),
                  ("not an image", written("a.png", b"text")),
                  ("million pixels", written("a.png", bomb(16_000, 8_001))),
                  ("small file", written("a.png", bomb(11_000, 11_000)))],
    "open_image": [("type int", 7), ("not an image", written("a.png", b"text")),
                   ("cannot be decoded", picture_file(cut=60, size=(40, 40))), ("0 x 5", Image.new("RGB", (0, 5))),
                   ("million pixels", Image.new("1", (16000, 8001))), ("cannot be read", Made(lambda folder: folder))],
    "decode": [("at least one pixel", Image.new("RGB", (0, 5)), "It", "hf")],
    "pictures.check_style": [("style", "x")],
}
# What `Raises:` of these says is tried in test_guards.py, on each argument.
GUARDED = set(test_guards.OPERATIONS) | {name for name in found_functions() if name.startswith("check_")
                                         and name.removeprefix("check_") in test_guards.OPERATIONS}


def clauses(text: str) -> int:
    """How many cases a `Raises:` line names at least: its parts between commas and the word or."""
    text = re.sub(r"\([^)]*\)", "", text.split(";")[0])
    return len(re.split(r",(?: or)?|\bor\b", text))


def test_every_raises_line_has_its_calls():
    lines = {name: text for name in found_functions() if (text := field(name, "Raises:"))}
    assert set(RAISES) <= set(lines), "these raise nothing by their docstrings, or are gone"
    for name, text in lines.items():
        if name in GUARDED:
            tried = [case for case, _ in test_guards.CASES if case == name.removeprefix("check_")]
        else:
            assert name in RAISES, f"{name} says {text!r}, and no call here shows it"
            tried = RAISES[name]
        assert len(tried) >= clauses(text), f"{name} says {text!r}: {len(tried)} calls for {clauses(text)} clauses"


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("name, case", [(name, case) for name, cases in RAISES.items() for case in cases],
                         ids=[f"{name} {case[0]}" for name, cases in RAISES.items() for case in cases])
def test_it_raises_what_it_says(name, case, tmp_path):
    words, *arguments = case
    arguments = [value.make(tmp_path) if isinstance(value, Made) else value for value in arguments]
    errors = {error.__name__: error for error in (TinyError, ValueError, KeyError, OSError, BlockingIOError)}
    kinds = tuple(errors[word] for word in re.findall(r"\w+Error\b", field(name, "Raises:")))
    function = function_of(name)
    if arguments and isinstance(arguments[0], Of):
        function = getattr(arguments.pop(0).value, name.rpartition(".")[2])
    with pytest.raises(kinds, match=re.escape(words)) as caught:
        result = function(*arguments)
        if name == "generate":
            list(result)
        if name == "whole_folder":
            with result:
                pass
    assert type(caught.value) in kinds or isinstance(caught.value, OSError)


def draw(*shape, dtype=FLOAT32):
    return test_guards.draw(*shape).astype(dtype)


def run_of(model, T=3):
    """What a layer needs beside its input."""
    cos, sin = tiny.ops.rope_table(np.arange(T), model.config.head_dim, 1e4)
    return ForwardPass([T], cos, sin, None, None, tiny.ops, "float32")


def through_encoder():
    model = subject("Pixtral")
    return tiny.vision.vision_encoder([PIXELS], model.weights, model.config.vision, run_of(model))


def through_layer():
    model = subject("Mixtral")
    return tiny.decoder.decoder_layer(draw(3, 24), 0, model.weights, model.config, run_of(model))


def appended(name):
    cache = KVCache(1, 1, 2, [1], name)
    cache.append(0, *np.full((2, 1, 1, 2), 1.00390625, FLOAT32), [1])  # between 1 and 1.0078125, so to the even 1
    assert cache.keys.tolist() == cache.values.tolist() == [[[[1.00390625 if name == "float32" else 1.0] * 2]]]
    return cache.keys


def stored(folder, dtype):
    (folder / "w.safetensors").write_bytes(small.file_bytes({"w": np.zeros(2, dtype)}))
    return tiny.files.safetensors.read_safetensors(folder / "w.safetensors")["w"]


WEIGHTS = (FLOAT32, BFLOAT16, FLOAT16)
# For each dtype that a `Dtypes:` line names: the dtype, and results that a call with it, or to it, gives.
DTYPES = {
    "KVCache": [(kept, lambda _, name=name, half=half: getattr(KVCache(1, 1, 2, [3], name), half))
                for name, kept in (("float32", FLOAT32), ("bfloat16", BFLOAT16)) for half in ("keys", "values")],
    "KVCache.append": [(kept, lambda _, name=name: appended(name)) for name, kept in (("float32", FLOAT32),
                                                                                      ("bfloat16", BFLOAT16))],
    "decoder_layer": [(FLOAT32, lambda _: through_layer())],
    "vision_encoder": [(FLOAT32, lambda _: through_encoder())],
    "Mixtral.__call__": [(FLOAT32, lambda _, dtype=dtype: subject("Mixtral")(np.ones(3, dtype)))
                         for dtype in (np.int64, np.int32, np.uint8)],
    "preprocess": [(FLOAT32, lambda _: tiny.preprocess(Image.new("RGB", (20, 30))))],
    "resize_cubic": [(FLOAT32, lambda _, dtype=dtype, size=size: tiny.image.resize_cubic(
        np.zeros((4, 4, 3), dtype), size, size)) for dtype in (np.uint8, FLOAT32) for size in (4, 9)],
    "cubic_taps": [(FLOAT32, lambda _, dtype=dtype: tiny.image.cubic_taps(5, 9, np.dtype(dtype))[1])
                   for dtype in (FLOAT32, FLOAT64)],
    "image.normalise": [(FLOAT32, lambda _: tiny.image.normalise(np.zeros((4, 4, 3), FLOAT32)))],
    "patches": [(dtype, lambda _, dtype=dtype: tiny.patch_embed.patches(np.zeros((3, 4, 4), dtype), 2))
                for dtype in (FLOAT32, FLOAT64, np.uint8)],
    "splice": [(FLOAT32, lambda _: tiny.adapter.splice(draw(2, 4), np.array([7, 9]), draw(1, 4), 7))],
    "read_safetensors": [(dtype, lambda folder, dtype=dtype: stored(folder, dtype)) for dtype in WEIGHTS],
    "log_softmax": [(FLOAT64, lambda _: tiny.sampling.log_softmax(np.zeros(4, FLOAT32)))],
}


def test_every_dtypes_line_has_its_results():
    lines = {name: text for name in found_functions() if (text := field(name, "Dtypes:"))}
    assert set(DTYPES) - set(lines) <= {"log_softmax"}, "these say nothing of dtypes, or are gone"
    for name, text in lines.items():
        if name not in test_guards.OPERATIONS:
            assert name in DTYPES, f"{name} says {text!r}, and no result here shows it"


@pytest.mark.parametrize("name, dtype, result", [(name, *case) for name, cases in DTYPES.items() for case in cases],
                         ids=[f"{name} {np.dtype(case[0])}" for name, cases in DTYPES.items() for case in cases])
def test_results_have_the_dtypes_that_it_says(name, dtype, result, tmp_path):
    assert result(tmp_path).dtype == dtype


@pytest.mark.parametrize("name", test_guards.OPERATIONS)
def test_operations_take_and_give_the_dtypes_that_they_say(name):
    """Weights in each form in which files hold them, positions and ids of any whole number."""
    text = field(name, "Dtypes:")
    given, _, made = text.partition("->") if "->" in text else ("", "", text)
    names = set(re.findall(r"\b(float32|int64)\b", made))
    for dtype in WEIGHTS if re.search("bfloat16 or float16", given) else (FLOAT32,):
        arguments = test_guards.right(name)
        for key in test_guards.WEIGHTS.get(name, []):
            arguments[key] = test_guards.changed(arguments[key], lambda x, dtype=dtype: x.astype(dtype))
        for whole in (np.int64, np.int32, np.uint8):
            for key in test_guards.POSITIONS.get(name, []):
                arguments[key] = arguments[key].astype(whole)
            results = test_guards.OPERATIONS[name](**arguments)
            results = results if isinstance(results, tuple) else (results,)
            assert {str(x.dtype) for x in results} == names
