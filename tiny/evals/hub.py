"""From the files of a data set on the Hub to a folder of items. Read `metrics.py` next.

A path is a file of parquet or of JSON lines, a folder of shards, a data set as it was downloaded, or a Hugging Face
cache. Nothing is fetched. pyarrow is needed here alone, for files of parquet.
"""

import hashlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from tiny.config import TinyError
from tiny.evals.items import LARGEST_IMAGE, Item, check_item, item_of, write_items
from tiny.evals.lines import Wrong, at, misfit, read_lines
from tiny.evals.rows import ROWS, fields_of
from tiny.evals.tasks import Task
from tiny.system.hub import find_snapshot
from tiny.system.pictures import FORMATS, open_image, quiet
from tiny.system.reading import check_plain, read_file, short

KINDS = (".parquet", ".jsonl")
LARGEST_GROUP = 1 << 33  # bytes of a row group, once unpacked: a part of a parquet file that is read at once
BATCH = 16  # rows read at once; images are large


def import_task(task: Task, path: Path, out: Path, shots: int = 0) -> int:
    """Write the items of a data set to a new folder; return how many there are.

    shots: solved examples before each question of mmlu
    Raises:  TinyError that names file, row and column
    """
    examples: dict[str, list[Mapping[str, Any]]] = {}
    if shots:
        if task.name != "mmlu" or not 0 < shots <= 5:
            raise TinyError(f"--shots {shots} with {task.name}: mmlu alone has examples here, up to 5.",
                            "Leave --shots out, or use 1 to 5 with mmlu.")
        for file, number, row in rows_of(find_files(path, task, "dev"), task):
            with at(file, number):
                fields_of(task, row)
            examples.setdefault(row["subject"], []).append(row)
    solved = [row for rows in examples.values() for row in rows[:shots]]
    return write_items(out, task, items_of(task, find_files(path, task, task.split), solved))


def find_files(path: Path, task: Task, split: str) -> list[Path]:
    """The files of a split, all shards in order. Of several configurations the files of the task's, or of `all`.

    Raises:  TinyError if there are none, the configuration is missing and others are there, or a shard is missing
    """
    if path.suffix not in KINDS and not path.is_dir() or not path.exists():
        what = "is neither parquet nor JSON lines" if path.exists() else "does not exist"
        raise TinyError(f"{path} {what}.", f"Give a file {' or '.join(KINDS)}, the folder of a data set, or a cache.")
    if not path.is_dir():
        return [path]
    names = [name for known in task.datasets for name in (f"datasets--{known.replace('/', '--')}", known)]
    inside = [path / top / name for name in names for top in ("", "hub") if (path / top / name).is_dir()]
    folder = find_snapshot(inside[0] if inside else path, (), "datasets")
    files = sorted(file for file in folder.rglob("*") if file.suffix in KINDS and file.is_file() and (
        re.fullmatch(rf"{split}(?:[-._].*)?", file.stem) or file.parent.name == split))
    part = task.config or "all"
    chosen = [file for file in files if part in file.relative_to(folder).parts]
    others = [file for file in files if file.parent not in (folder, folder / "data")]
    if task.config and not chosen and others:
        raise TinyError(f"{folder} has no folder {part}, but {others[0].relative_to(folder).parent}.",
                        f"Give the folder of {part}, or download that too.")
    if not files:
        arrow = ", only Arrow files that load_dataset made" * any(folder.rglob("*.arrow"))
        there = [file.name for file in sorted(folder.rglob("*")) if file.suffix in KINDS]
        has = f"; it has {short(', '.join(there))}" * bool(there)
        raise TinyError(f"{folder} has no parquet or JSON lines of the split {split}{arrow}{has}.",
                        f"Names of files begin with {split}, or their folder is {split}. Give one file by its path, or "
                        f"download {task.datasets[0]} (hf download --repo-type dataset) and give that folder.")
    for file in chosen or files:
        if shard := re.fullmatch(r"(.*)-\d{5}-of-(\d{5})", file.stem):
            lost = [f"{n:05d}" for n in range(int(shard[2]))
                    if not (file.parent / f"{shard[1]}-{n:05d}-of-{shard[2]}{file.suffix}").exists()]
            if lost:
                raise TinyError(f"{file.parent} has {int(shard[2]) - len(lost)} of {int(shard[2])} shards of "
                                f"{shard[1]}; {lost[0]} is missing.", "Download the data set again.")
    return chosen or files


def rows_of(files: list[Path], task: Task) -> Iterator[tuple[Path, int, dict[str, Any]]]:
    """The rows of some files, each with its file and number."""
    for file in files:
        rows = read_lines(file, cut=False) if file.suffix == ".jsonl" else enumerate(parquet_rows(file, task), start=1)
        yield from ((file, number, row) for number, row in rows)


def parquet_rows(file: Path, task: Task) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, with the columns that the task needs.

    Raises:  TinyError without pyarrow, for a damaged file, or for a column that is missing
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise TinyError("Reading parquet needs the package pyarrow, which is not installed.",
                        "pip install pyarrow; or give the rows as JSON lines, a file .jsonl.") from None
    check_plain(file)
    shapes = ROWS[task.name][1]
    try:
        table = pyarrow.parquet.ParquetFile(file)
        there = table.schema_arrow.names
        for column in shapes.keys() - set(there):
            if misfit(None, shapes[column]):
                raise TinyError(f"{file} has no column {column}; it has {short(', '.join(there))}.",
                                f"Give the split {task.split} of {task.datasets[0]}.")
        for n in range(table.metadata.num_row_groups):
            if table.metadata.row_group(n).total_byte_size > LARGEST_GROUP:
                raise TinyError(f"{file} has a row group of more than {LARGEST_GROUP:,} bytes.",
                                "Write it again with smaller row groups.")
        for batch in table.iter_batches(BATCH, columns=[column for column in shapes if column in there]):
            yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TinyError(f"{file} cannot be read as parquet: {short(str(error))}.", "Download it again.") from None


def items_of(task: Task, files: list[Path],
             examples: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Item, dict[str, bytes]]]:
    """Items, each with those of its images that no item before it had, by name."""
    known: dict[str, str] = {}
    for number, (file, place, row) in enumerate(rows_of(files, task)):
        new: dict[str, bytes] = {}
        with at(file, place):
            fields: dict[str, Any] = {"id": f"{number:06d}"} | fields_of(task, row, examples)
            for message in fields.get("messages", ()):
                for chunk in message["content"] if message["role"] == "user" else ():
                    if "image" in chunk:
                        chunk["image"] = stored(row, chunk["image"], file.parent, known, new)
            check_item(task, fields)
        yield item_of(fields), new


def stored(row: Mapping[str, Any], column: str, folder: Path, known: dict[str, str], new: dict[str, bytes]) -> str:
    """The name of the image of a column: that of its bytes, so that one shown in many questions is stored once.

    known: the names by hash, new: the bytes by name; both are added to
    """
    data = image_bytes(row.get(column), column, folder.resolve())
    digest = hashlib.sha256(data).hexdigest()[:24]
    if digest not in known:
        try:
            with quiet(), warnings.catch_warnings(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
                warnings.simplefilter("ignore", UserWarning)  # A run says what is odd about an image.
                open_image(image)
        except Image.DecompressionBombError:
            raise Wrong(column, "the image has too many pixels") from None
        except TinyError as error:
            raise Wrong(column, error.cause.rstrip(".")) from error
        except Exception as error:  # Pillow's readers raise whatever damaged data leads them to.
            raise Wrong(column, f"{short(data[:16])} begins no image of {', '.join(FORMATS)}") from error
        known[digest] = f"images/{digest}.{str(image.format).lower()}"
        new[known[digest]] = data
    return known[digest]


def image_bytes(value: Any, column: str, folder: Path) -> bytes:
    """The bytes of an image: in parquet an object with them, in JSON lines the path of a file beside it."""
    data = value.get("bytes") if isinstance(value, Mapping) else None
    if isinstance(value, str):
        try:
            path = (folder / value).resolve()
        except (RuntimeError, ValueError) as error:
            raise Wrong(column, f"{short(value)} is no path of a file") from error
        if not path.is_relative_to(folder):
            raise Wrong(column, f"{short(value)} leaves the folder of the file")
        try:
            data = read_file(path, LARGEST_IMAGE)
        except TinyError as error:
            raise Wrong(column, error.cause.rstrip(".")) from error
    if not isinstance(data, bytes) or not 0 < len(data) <= LARGEST_IMAGE:
        raise Wrong(column, f"{short(value)} holds no image of at most {LARGEST_IMAGE:,} bytes")
    return data
