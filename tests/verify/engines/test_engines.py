"""`verify server` against servers of other projects, healthy and with real faults. The README says what it needs."""

from pathlib import Path
from typing import NamedTuple

import pytest
from client_runs import version_in
from engines import PACKAGES, SPACED, TEMPLATE, TWICE, Models, python_of, running, verified

pytestmark = pytest.mark.verify
VLLM = ("--chat-template", "{folder}/template.jinja", "--dtype")


class Case(NamedTuple):
    """A server and what has to be found. file: arguments of Models, "gguf" or "hugging_face" by the engine
    options: of the server; verify: of the command; status: its exit status; says: words of its report
    against: what --model is: "tiny-mixtral", or "file" for what is served
    """

    engine: str
    what: str
    file: dict
    options: tuple = ()
    status: int = 0
    says: tuple = ()
    against: str = "file"
    verify: tuple = ()


def llama(what, kind="q8_0", engine="llama.cpp", **more):
    options = {name: more.pop(name) for name in ("options", "status", "says", "against", "verify") if name in more}
    return Case(engine, what, {"kind": kind} | more, **options)


def hugging(engine, what, options=(), status=0, says=(), verify=(), **file):
    return Case(engine, what, file, options, status, says, "tiny-mixtral", verify)


GGUFS = [*((kind, False) for kind in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m")),
         *((kind, True) for kind in ("q6_k", "q5_k_m", "q4_k_m"))]
FAULTS = (("theta times 100", {"options": ("rope_freq_base=1e6",)}, "a rotary theta of 1"),
          ("positions divided by 2", {"options": ("rope_freq_scale=0.5",)}, "positions divided by 2"),
          ("1 expert", {"expert_used_count": 1}, "K = 1 experts"),
          ("3 experts", {"expert_used_count": 3}, "K = 3 experts"),
          ("epsilon 1e-3", {"attention__layer_norm_rms_epsilon": 1e-3}, "a norm epsilon of 0.00"))
CASES = [
    *(llama(f"{'wide ' * wide}{kind}", kind, wide=wide) for kind, wide in GGUFS),
    *(llama(f"{kind}, {what}", kind, status=1, says=(says,), against="right", **change)
      for kind in ("q8_0", "q4_0") for what, change, says in FAULTS),
    llama("f32, rows of q and k as Hugging Face has them", "f32", hf_rows=True, status=1, against="tiny-mixtral",
          says=("q and k rows in Hugging Face's order",)),
    llama("q8_0, BOS twice in the template", template=TWICE, status=1, says=("BOS twice",)),
    llama("q8_0, a space before [INST]", template=SPACED, status=1, says=("a second space before [INST]",)),
    llama("f32, no template", "f32", template=None, status=1, says=("ChatML",)),
    *(llama(kind, kind, "llama-cpp-python") for kind in ("f32", "q8_0", "q4_0", "q4_k_m")),
    llama("q8_0, theta times 100", engine="llama-cpp-python", options=("--rope_freq_base", 1e6), status=1,
          says=("a rotary theta of 1",)),
    llama("f32, no template", "f32", "llama-cpp-python", template=None, status=1,
          says=("Llama-2 as llama-cpp-python",)),
    hugging("vLLM", "float32", (*VLLM, "float32")),
    hugging("vLLM", "bfloat16", (*VLLM, "bfloat16")),
    hugging("vLLM", "bfloat16, 1 expert", (*VLLM, "bfloat16", "--hf-overrides", '{"num_experts_per_tok": 1}'), 1,
            ("K = 1 experts",)),
    hugging("vLLM", "bfloat16, window 128", (*VLLM, "bfloat16", "--hf-overrides", '{"sliding_window": 128}'), 1,
            ("a sliding window of 128",)),
    hugging("vLLM", "float32, defaults in the numbers", (*VLLM, "float32", "--logprobs-mode", "processed_logprobs"), 0,
            ("without sampling parameters",), generation={"temperature": 0.7, "repetition_penalty": 1.3}),
    hugging("mlx-lm", "float32", (), 1, ("not sorted",)),
    hugging("mlx-lm", "float32, no template", (), 1, ("mlx-lm's default",), template=None),
    hugging("transformers", "float32"),
    hugging("transformers", "float32, tokenizer.model alone", (), 1, ("the space in front of a text is lost",),
            pieces_only=True),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    return Models(tmp_path_factory.mktemp("engines"))


@pytest.mark.parametrize("case", CASES, ids=[f"{case.engine}: {case.what}" for case in CASES])
def test_what_is_said_of_a_server(case, models, tmp_path, record_property):
    python = python_of(case.engine)
    served = (models.gguf if "kind" in case.file else models.hugging_face)(**case.file)
    (tmp_path / "template.jinja").write_text(TEMPLATE)
    options = [str(word).replace("{folder}", str(tmp_path)) for word in case.options]
    with running(case.engine, served, tmp_path, options) as url:
        status, found, printed = verified(url, model_of(case, models, served), tmp_path, models.folder, case.verify)
    record_property(f"version {case.engine}", version_in(python, PACKAGES[case.engine]))
    record_property(f"{case.engine} | {case.what}", " | ".join([str(status), words_of(found)]))
    assert status == case.status and all(words in printed for words in case.says), printed


def model_of(case: Case, models: Models, served: Path) -> str | Path:
    """What the server is compared with."""
    right = {key: case.file[key] for key in ("kind", "wide") if key in case.file}
    return served if case.against == "file" else models.gguf(**right) if case.against == "right" else case.against


def words_of(found: dict) -> str:
    """The words of the checks that say something, in one line."""
    lines = [line for line in found.get("lines", ()) if line["check"] != "way" and (
        line["good"] is False or line["check"] in ("numbers", "defaults"))]
    return "; ".join(f"{line['check']}: {line['words']}" for line in lines)
