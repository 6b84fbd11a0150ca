"""What transformers reaches on the same GPU with models of the same sizes and random weights, in bfloat16.

Each way that it offers to run experts is timed, as it is and in a CUDA graph; the last step compiles it. Torch and
transformers are imported by the functions, so that this file can be read without them.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from kernels.gpu import models
from tiny.config import Config

EXPERTS = ("batched_mm", "grouped_mm", "eager")
COMPILED = ("batched_mm",)  # a token of one sequence: products of the chosen experts only


def model_of(torch: Any, transformers: Any, config: Config) -> Any:
    """A model of transformers of these sizes, on the GPU."""
    sizes = {"hidden_size": config.dim, "intermediate_size": config.hidden_dim, "num_hidden_layers": config.n_layers,
             "num_attention_heads": config.n_heads, "num_key_value_heads": config.n_kv_heads,
             "head_dim": config.head_dim, "vocab_size": config.vocab_size, "rms_norm_eps": config.norm_eps,
             "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta}, "sliding_window": None}
    if config.moe:
        sizes |= {"num_local_experts": config.moe.num_experts, "num_experts_per_tok": config.moe.num_experts_per_tok}
    family = "Mixtral" if config.moe else "Mistral"
    made = getattr(transformers, f"{family}Config")(**sizes)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"), torch.no_grad():
        return getattr(transformers, f"{family}ForCausalLM")(made).eval()


class Session:
    """One prompt in a cache of fixed size, and the tokens after it."""

    def __init__(self, torch: Any, transformers: Any, model: Any, length: int):
        self.torch, self.model = torch, model
        self.cache = transformers.StaticCache(config=model.config, max_cache_len=length)
        names = inspect.signature(model.forward).parameters
        self.keyword = "cache" if "cache" in names else "past_key_values"  # its name changed with the versions
        self.ids = torch.full((1, 1), 3, device="cuda")

    def run(self, ids: Any, forward: Callable | None = None) -> Any:
        """The logits behind the last of these tokens."""
        with self.torch.no_grad():
            return (forward or self.model)(ids, use_cache=True, logits_to_keep=1, **{self.keyword: self.cache}).logits

    def token(self, forward: Callable | None = None) -> None:
        """One more token: the one with the largest logit."""
        self.ids.copy_(self.run(self.ids, forward).argmax(-1))


def decode(torch: Any, token: Callable[[], Any]) -> dict:
    """Milliseconds for a token, mean of TOKENS after a few that are not counted."""
    for _ in range(models.WARM_UPS):
        token()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(models.TOKENS):
        token()
    torch.cuda.synchronize()
    return {"ms": 1000 * (time.perf_counter() - start) / models.TOKENS}


def prepared(name: str) -> tuple[Any, Any, Any, dict]:
    """Torch, transformers, the model with as many layers as fit, and what its rows say about it."""
    import torch
    import transformers
    release = models.RELEASES[name]
    config = models.fitting(release.config, "bfloat16", models.PROMPT + 4 * models.TOKENS, torch.cuda.mem_get_info()[0])
    model = model_of(torch, transformers, config)
    return torch, transformers, model, {
        "model": name, "layers": config.n_layers, "of": release.config.n_layers, "torch": torch.__version__,
        "transformers": transformers.__version__, "bytes": models.token_bytes(config, "bfloat16", models.PROMPT)}


def speed(name: str) -> Iterator[dict]:
    """A prompt, and a token after it, for every way to run experts, without and with a CUDA graph."""
    torch, transformers, model, about = prepared(name)
    prompt = torch.randint(3, model.config.vocab_size, (1, models.PROMPT), device="cuda")
    for experts in EXPERTS if models.RELEASES[name].config.moe else (None,):
        row = {**about, "experts": experts}
        try:
            if experts:
                model.set_experts_implementation(experts)
            yield {**row, "what": "prompt", "tokens": models.PROMPT, "bytes": None,
                   **prefill(torch, transformers, model, prompt)}
            session = Session(torch, transformers, model, models.PROMPT + 3 * (models.TOKENS + models.WARM_UPS))
            session.run(prompt)
            yield {**row, "what": "token without graph", "tokens": models.TOKENS, **decode(torch, session.token)}
            yield {**row, "what": "token", "tokens": models.TOKENS, **decode(torch, captured(torch, session))}
        except (RuntimeError, AttributeError, ValueError, TypeError) as error:
            yield {**row, "refused": str(error).strip().splitlines()[0][:200]}


def prefill(torch: Any, transformers: Any, model: Any, prompt: Any) -> dict:
    """Milliseconds for a prompt, at its second time."""
    for _ in range(2):
        session = Session(torch, transformers, model, prompt.shape[1])
        torch.cuda.synchronize()
        start = time.perf_counter()
        session.run(prompt)
        torch.cuda.synchronize()
        ms = 1000 * (time.perf_counter() - start)
    return {"ms": ms}


def captured(torch: Any, session: Session) -> Callable[[], None]:
    """A CUDA graph of one more token; the place in the cache and the token lie on the device."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        session.token()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        session.token()
    return graph.replay


def compiled(name: str) -> Iterator[dict]:
    """A token by torch.compile with its own graphs, which takes long to compile: a step of its own."""
    torch, transformers, model, about = prepared(name)
    for experts in COMPILED if models.RELEASES[name].config.moe else (None,):
        if experts:
            model.set_experts_implementation(experts)
        session = Session(torch, transformers, model, models.PROMPT + 2 * (models.TOKENS + models.WARM_UPS))
        session.run(torch.randint(3, model.config.vocab_size, (1, models.PROMPT), device="cuda"))
        start = time.perf_counter()
        forward = torch.compile(model.forward, mode="reduce-overhead")
        session.token(forward)
        seconds = time.perf_counter() - start
        yield {**about, "experts": experts, "what": "token, compiled", "tokens": models.TOKENS, "compiling_s": seconds,
               **decode(torch, partial(session.token, forward))}
