"""Folders of a Hugging Face cache: which snapshot is meant, and whose model it is.

Read `diagnosis.py` next.
"""

import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from tiny.config import TinyError


def find_snapshot(folder: Path, signs: Iterable[str], kind: str = "models") -> Path:
    """The snapshot that a folder of a Hugging Face cache stands for: that of refs/main, or the only one.

    The folder may be the cache itself, a model in it, or refs, blobs or snapshots of a model. A folder with one of the
    files `signs` is a model itself, and is returned as it is; so is one that is no part of a cache. kind: "models" or
    "datasets"

    Raises:  TinyError if there are several models, or several snapshots to choose from
    """
    if any((folder / sign).exists() for sign in signs):
        return folder
    around = folder.absolute().parent
    top = around if around.name.startswith(f"{kind}--") else folder
    models = sorted(path.parent for path in (*top.glob(f"{kind}--*/snapshots"), *top.glob(f"hub/{kind}--*/snapshots")))
    if len(models) > 1:
        raise TinyError(f"{folder} is a cache of {len(models)} {kind}.",
                        f"Give the folder of one of them: {', '.join(path.name for path in models)[:300]}.")
    top = models[0] if models else top
    snapshots = sorted(path for path in top.glob("snapshots/*") if path.is_dir())
    if not snapshots:
        return folder
    ref = top / "refs/main"
    main = ref.read_text(encoding="utf-8", errors="replace").strip() if ref.is_file() else ""
    chosen = [path for path in snapshots if len(snapshots) == 1 or path.name == main]
    if not chosen:
        raise TinyError(f"{folder} holds several snapshots, and refs/main is none of them.",
                        f"Give one: {', '.join(f'snapshots/{path.name}' for path in snapshots)[:300]}.")
    warnings.warn(f"{folder} is part of a Hugging Face cache; snapshots/{chosen[0].name} is read", stacklevel=2)
    return chosen[0]


def model_name(folder: Path) -> str:
    """What a model is called: in a Hugging Face cache OWNER/NAME, else the name of its folder."""
    path = Path(os.path.abspath(folder))  # keeps links
    cached = [part for part in path.parts if part.startswith("models--")]
    return cached[-1].removeprefix("models--").replace("--", "/", 1) if cached else path.name
