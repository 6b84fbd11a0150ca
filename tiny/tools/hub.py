"""Folders of a Hugging Face cache: which snapshot is meant, and whose model it is."""

import warnings
from pathlib import Path

from tiny.config import TinyError
from tiny.files.checkpoint import LAYOUTS


def find_snapshot(name: str) -> Path:
    """The snapshot that a folder of a Hugging Face cache stands for: that of refs/main, or the only one.

    Raises:  TinyError if there are several models or snapshots to choose from
    """
    folder = Path(name)
    if any((folder / file).exists() for file, *_ in LAYOUTS.values()):
        return folder
    top = folder.parent if folder.parent.name.startswith("models--") else folder
    models = sorted(path.parent for path in (*top.glob("models--*/snapshots"), *top.glob("hub/models--*/snapshots")))
    if len(models) > 1:
        raise TinyError(f"{folder} is a cache of {len(models)} models.",
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
    """What to call the model in a folder: OWNER/NAME for a snapshot of a cache, else the name of the folder."""
    folder = folder.absolute()
    owner = folder.parent.parent.name if folder.parent.name == "snapshots" else ""
    return owner.removeprefix("models--").replace("--", "/") if owner.startswith("models--") else folder.name
