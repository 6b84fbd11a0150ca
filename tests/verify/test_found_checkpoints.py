"""Checkpoints under the names that people have, read by transformers and by this code: the same logits."""

import importlib.util
import itertools
from importlib.metadata import version

import numpy as np
import pytest
from compare import assert_close
from small import file_bytes, hf_tensors, random_tensors, sizes, vision_sizes, write_hf

import tiny
from tests.files.test_found_checkpoints import stacked
from tiny.files.hf_names import LLAVA_FORMS

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.verify,
              pytest.mark.skipif(bool(MISSING), reason=f"This check needs {' and '.join(MISSING)} (the verify extra).")]
IDS = [1, 5, 13, 9, 30, 11, 2, 3]
MOE, DENSE = sizes((3, 2)), sizes(None)
SEES = sizes(None, vision=vision_sizes())


def compare_logits(folder, record_property, llava=False):
    import torch
    from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

    kind = LlavaForConditionalGeneration if llava else AutoModelForCausalLM
    model, info = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                       output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        theirs = model(torch.tensor([IDS])).logits[0].numpy()
    ours = tiny.load(folder)(IDS)
    assert_close(ours, theirs, 3e-5, name="logits")  # measured: 3.2e-6
    record_property("version transformers", version("transformers"))


def folder_of(folder, config, rename=lambda name: name, change=lambda tensors: tensors, **settings):
    tensors = random_tensors(config, dtype=np.float32)
    write_hf(folder, config, tensors, **settings)
    stored = {rename(name): x for name, x in change(hf_tensors(config, tensors)).items()}
    (folder / "model.safetensors").write_bytes(file_bytes(stored))
    return folder


def both_layers(tensors):
    return stacked(stacked(tensors, 0), 1)


@pytest.mark.parametrize("config, rename, change", [
    (MOE, lambda name: name.removeprefix("model."), dict), (DENSE, lambda name: name.removeprefix("model."), dict),
    (MOE, lambda name: name.replace("block_sparse_moe", "mlp"), dict),
    (MOE, lambda name: name.replace("block_sparse_moe.gate", "mlp.gate"), dict), (MOE, str, both_layers),
    (MOE, lambda name: name.removeprefix("model."), both_layers)])
def test_names_of_text_models(tmp_path, config, rename, change, record_property):
    compare_logits(folder_of(tmp_path / "m", config, rename, change), record_property)


@pytest.mark.parametrize("settings", [
    {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5}}, {"rope_scaling": {"type": "default"}},
    {"rope_scaling": {"rope_type": "default"}}, {"hidden_act": "swish"}])
def test_settings(tmp_path, settings, record_property):
    compare_logits(folder_of(tmp_path / "m", DENSE, **settings), record_property)


@pytest.mark.parametrize("language, output, encoder, adapter", list(itertools.product(*LLAVA_FORMS.values())))
def test_names_of_models_that_see(tmp_path, language, output, encoder, adapter, record_property):
    new = {"language_model.model.": language, "language_model.lm_head.": output, "vision_tower.": encoder,
           "multi_modal_projector.": adapter}

    def rename(name):
        old = next(old for old in new if name.startswith(old))
        return new[old] + name.removeprefix(old)
    compare_logits(folder_of(tmp_path / "m", SEES, rename), record_property, llava=True)
