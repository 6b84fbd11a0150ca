"""lmms-eval, unchanged, with its openai model against a served tiny-pixtral: each answer is that of this process."""

import io
from functools import cache

import hub_files
import hub_scenes
import pytest
from client_runs import needs_extras, python_of, read_lines, run, served, version_in
from PIL import Image

import tiny

pytestmark = [pytest.mark.verify, needs_extras()]
TOKENS = 16  # of an answer, as its task chartqa has it


@cache
def model():
    return tiny.load("tiny-pixtral", weights="resident")


def test_each_answer_is_that_of_this_process(tmp_path, record_property):
    python, rows = python_of("LMMS_EVAL_PYTHON"), hub_scenes.draw_rows()["chartqa"]
    for name in ("lmms-lab/ChartQA", "lmms-lab-encoder/ChartQA"):  # Its name has changed; either may be asked for.
        hub_files.write_hub(tmp_path, hub_files.VISION["chartqa"]._replace(name=name), {"test": rows})
    with served("tiny-pixtral", tmp_path) as url:
        run([python, "-m", "lmms_eval", "--model", "openai", "--model_args",
             f"model_version=tiny-pixtral,base_url={url}/v1,api_key=none", "--tasks", "chartqa", "--batch_size", 1,
             "--output_path", "out", "--log_samples"], tmp_path, HF_HOME=str(tmp_path / "hub"))
    samples = read_lines(next((tmp_path / "out").rglob("*samples_chartqa.jsonl")))
    assert len(samples) == len(rows)
    for row, sample in zip(rows, samples):
        image = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")
        assert sample["input"].startswith(row["question"])
        ids, images = model().tokenizer.encode_chat([{"role": "user", "content": [
            {"type": "image", "image": image}, {"type": "text", "text": sample["input"]}]}])
        tokens = list(tiny.generate(model(), ids, images=images, max_tokens=TOKENS))
        assert sample["filtered_resps"] == "".join(token.text for token in tokens)
        assert sample["token_counts"][0]["input_tokens"] == len(ids)
        assert sample["token_counts"][0]["output_tokens"] in (len(tokens), len(tokens) + 1)
    record_property("version lmms_eval", version_in(python, "lmms_eval"))
    record_property("lmms_eval chartqa, answers and counts of tokens as in this process", f"{len(rows)} of {len(rows)}")
