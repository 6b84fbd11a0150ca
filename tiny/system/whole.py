"""Files written whole or not at all: whatever happens, a name is absent, old and whole, or new and whole.

Read `free_memory.py` next.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(path: str | Path, content: str | bytes | Callable[[BinaryIO], object]) -> None:
    """Write a file beside its name, and rename it once it is on the disk. A function gets the open file to write to.

    A link stays a link, to a new file. What is no plain file, as /dev/stdout, is written to directly.
    """
    path = Path(path).resolve()
    data = content.encode() if isinstance(content, str) else content
    write = data if callable(data) else lambda file: file.write(data)
    if path.exists() and not path.is_file():
        with open(path, "wb") as file:
            write(file)
        return
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
