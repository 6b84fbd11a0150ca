"""torch and this project read each other's files: those of torch.save, and those that the tests write by hand."""

import collections
import importlib.util
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from torch_files import torch_file

from tiny.tools.convert.torch_file import read_torch_file

STORED = Path(__file__).parents[1] / "golden/torch_save.pt"
pytestmark = [pytest.mark.verify, pytest.mark.skipif(importlib.util.find_spec("torch") is None,
                                                     reason="This check needs torch (the verify extra).")]


def example():
    """What the stored file was made of: numbers n / 8 - 3 in views of one storage, and others."""
    import torch

    def numbers(count, dtype):
        return (torch.arange(count, dtype=torch.float32) / 8 - 3).to(dtype)

    base = numbers(24, torch.bfloat16)
    tensors = collections.OrderedDict(
        matrix=base[:12].reshape(3, 4), transposed=base.reshape(4, 6).t(), part=base[5:11],
        columns=base.reshape(4, 6)[:, 1:4], single=numbers(6, torch.float32).reshape(1, 2, 3),
        parameter=torch.nn.Parameter(numbers(7, torch.float16), requires_grad=False), empty=torch.zeros(0, 3))
    tensors._metadata = collections.OrderedDict({"": {"version": 1}})
    return tensors


def check(found, tensors):
    import torch

    assert set(found) == set(tensors)
    for name, x in tensors.items():
        assert str(x.dtype) == f"torch.{found[name].dtype}" and tuple(x.shape) == found[name].shape, name
        bits = torch.int32 if x.dtype == torch.float32 else torch.int16
        assert x.detach().contiguous().view(bits).numpy().tobytes() == found[name].tobytes(), name


def test_what_torch_saves_is_read(tmp_path):
    import torch

    check(read_torch_file(STORED), example())
    for n, tensors in enumerate((example(), dict(example()), torch.nn.Linear(5, 3, dtype=torch.bfloat16).state_dict())):
        torch.save(tensors, tmp_path / f"{n}.pt")
        check(read_torch_file(tmp_path / f"{n}.pt"), tensors)


@pytest.mark.parametrize("wide", [False, True])
def test_what_the_tests_write_is_read_by_torch(tmp_path, wide):
    """Otherwise the tests would check the reader against an invented format."""
    import torch

    tensors = {"a": np.arange(60, dtype=np.float32).reshape(3, 20).astype(ml_dtypes.bfloat16),
               "b": np.arange(300, dtype=np.float32), "c": np.ones((2, 1, 2), np.float16)}
    (tmp_path / "file.pt").write_bytes(torch_file(tensors, wide=wide))
    loaded = torch.load(tmp_path / "file.pt", weights_only=True)
    check(tensors, loaded)
    check(read_torch_file(tmp_path / "file.pt"), loaded)


def test_transformers_reads_converted_torch_files(tmp_path):
    """Files of torch, converted to Hugging Face's layout, are in transformers what they were in torch."""
    pytest.importorskip("transformers", reason="This check needs transformers (the verify extra).")
    from tests.tools.test_convert import FORMS, GOLDEN, HF_KEYS, stored, write

    source = write(tmp_path / "source", "copies of the ends", HF_KEYS)
    assert len(FORMS["copies of the ends"][1]) == 3
    program = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-m", "tiny", "convert", source, tmp_path / "hf", "--to", "hf",
                           "--shard-size", "0.0003"], cwd=program, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    import torch
    from transformers import MixtralForCausalLM

    model = MixtralForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.bfloat16)
    other = MixtralForCausalLM.from_pretrained(GOLDEN / "mixtral-a/hf", dtype=torch.bfloat16)
    assert len(stored(tmp_path / "hf")) == 96
    for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(one, two), name
