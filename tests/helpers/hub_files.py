"""Parquet files as the Hub has them: for each data set its columns, and a folder that `datasets` reads by its name.

`datasets` takes a folder of the working directory for a data set of the Hub if it has its name, a README.md that says
which file is which split, and the files. That a column holds pictures stands in the schema.
"""

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

# Kinds of columns; an OPTIONS holds a list of texts and one of letters, a VOTES the answers of people.
TEXT, NUMBER, FLOAT, TEXTS, PICTURE, OPTIONS, VOTES = "text", "number", "float", "texts", "picture", "options", "votes"


class Layout(NamedTuple):
    """A data set of the Hub: its name there, configuration and split, and the columns of its files."""

    name: str
    config: str
    split: str
    columns: dict[str, str]


VISION = {
    "mm_mt_bench": Layout("mistralai/MM-MT-Bench", "default", "eval", {
        "image": PICTURE, "category": TEXT, "conversation": TEXT}),
    "vqav2": Layout("HuggingFaceM4/VQAv2", "default", "validation", {
        "question_type": TEXT, "multiple_choice_answer": TEXT, "answers": VOTES, "image_id": NUMBER,
        "answer_type": TEXT, "question_id": NUMBER, "question": TEXT, "image": PICTURE}),
    "docvqa": Layout("lmms-lab/DocVQA", "DocVQA", "validation", {
        "questionId": TEXT, "question": TEXT, "question_types": TEXTS, "image": PICTURE, "docId": NUMBER,
        "ucsf_document_id": TEXT, "ucsf_document_page_no": TEXT, "answers": TEXTS, "data_split": TEXT}),
    "chartqa": Layout("lmms-lab/ChartQA", "default", "test", {
        "type": TEXT, "question": TEXT, "answer": TEXT, "image": PICTURE}),
    "mathvista": Layout("AI4Math/MathVista", "default", "testmini", {
        "pid": TEXT, "question": TEXT, "image": TEXT, "decoded_image": PICTURE, "choices": TEXTS, "unit": TEXT,
        "precision": FLOAT, "answer": TEXT, "question_type": TEXT, "answer_type": TEXT, "query": TEXT}),
    "mmmu": Layout("lmms-lab/MMMU", "default", "validation", {
        "id": TEXT, "question": TEXT, "options": TEXT, "explanation": TEXT,
        **{f"image_{n}": PICTURE for n in range(1, 8)}, "img_type": TEXT, "answer": TEXT, "topic_difficulty": TEXT,
        "question_type": TEXT, "subfield": TEXT})}

WORDS = {
    "hellaswag": Layout("Rowan/hellaswag", "default", "validation", {
        "ind": NUMBER, "activity_label": TEXT, "ctx_a": TEXT, "ctx_b": TEXT, "ctx": TEXT, "endings": TEXTS,
        "source_id": TEXT, "split": TEXT, "split_type": TEXT, "label": TEXT}),
    "arc_easy": Layout("allenai/ai2_arc", "ARC-Easy", "test", {
        "id": TEXT, "question": TEXT, "choices": OPTIONS, "answerKey": TEXT}),
    "mmlu_anatomy": Layout("cais/mmlu", "anatomy", "test", {
        "question": TEXT, "subject": TEXT, "choices": TEXTS, "answer": NUMBER}),
    "wikitext": Layout("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1", "test", {"page": TEXT})}


def types() -> dict:
    """The kinds of columns as types of pyarrow, which is in the evals extra."""
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    vote = pa.struct([("answer", text), ("answer_confidence", text), ("answer_id", pa.int64())])
    return {TEXT: text, NUMBER: pa.int64(), FLOAT: pa.float64(), TEXTS: texts, VOTES: pa.list_(vote),
            PICTURE: pa.struct([("bytes", pa.binary()), ("path", text)]),
            OPTIONS: pa.struct([("text", texts), ("label", texts)])}


def table_of(layout: Layout, rows: list[dict]):
    """The rows as a table with the columns of the Hub; what a row does not have is null."""
    import pyarrow as pa

    kinds = {name: types()[kind] for name, kind in layout.columns.items()}
    schema = pa.schema(list(kinds.items()))
    pictures = {name: {"_type": "Image"} for name, kind in layout.columns.items() if kind == PICTURE}
    if pictures:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": pictures}})})
    return pa.table({name: pa.array([row.get(name) for row in rows], kind) for name, kind in kinds.items()},
                    schema=schema)


def read_rows(path: Path) -> list[dict]:
    """The rows of a file."""
    import pyarrow.parquet as pq

    return pq.read_table(path).to_pylist()


def write_hub(root: Path, layout: Layout, splits: dict[str, list[dict]]) -> list[Path]:
    """Write a folder `root/OWNER/NAME` with one file a split; return the files."""
    import pyarrow.parquet as pq

    folder, below = root / layout.name, "data" if layout.config == "default" else layout.config
    (folder / below).mkdir(parents=True, exist_ok=True)
    files, lines = [], []
    for split, rows in splits.items():
        files.append(folder / below / f"{split}-00000-of-00001.parquet")
        pq.write_table(table_of(layout, rows), files[-1])
        lines.append(f"  - split: {split}\n    path: {below}/{split}-*\n")
    text = f"---\nconfigs:\n- config_name: {layout.config}\n  data_files:\n{''.join(lines)}---\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    return files


def stored(pixels: np.ndarray, name: str) -> dict:
    """A picture as a cell of a file: its bytes, PNG or JPEG by its name, and the name."""
    out = io.BytesIO()
    kind = "JPEG" if name.endswith(".jpg") else "PNG"
    Image.fromarray(np.ascontiguousarray(pixels)).save(out, format=kind)
    return {"bytes": out.getvalue(), "path": name}


def votes(answers: list[str]) -> list[dict]:
    """Answers of VQAv2 as the Hub has them."""
    return [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(answers, 1)]


def plain_votes() -> Layout:
    """VQAv2 with answers as texts: mistral-evals asks for these, and fails on what the Hub has."""
    return VISION["vqav2"]._replace(columns=VISION["vqav2"].columns | {"answers": TEXTS})
