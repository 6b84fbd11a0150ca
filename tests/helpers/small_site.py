"""A small repository whose site holds one of everything: a formula, a picture, a folded answer, a notebook."""

import json
from pathlib import Path

from pictures import picture

CHAPTER = """# 1. One

The root $\\sqrt{d}$, and a formula that stands alone:

$$\\frac{Q K^\\top}{\\sqrt{d}}$$

![A small picture.](figures/one.png) of [the code](../tiny/one.py#L2), [a word](glossary.md#word), [the second
heading](#the-2nd-heading), [a folder](../tests/one) and [the notebook](../notebooks/01_one.ipynb).
Not links: `[a](b)[c](d.md)`, and code:

```python
grid[i](j.md)
```

## The 2nd heading

1. How much is 1 + 1?

   <details><summary>Answer</summary>

   **2**

   </details>

2. And 2 + 2?

   <details><summary>Answer</summary>

   **4**

   </details>
"""
CELLS = [("markdown", "# One, run\n\nThe [chapter](../tutorial/01_one.md) has $a^2$.", []),
         ("code", "print(1 < 2)", [{"output_type": "stream", "name": "stdout", "text": ["True\n"]}])]


def notebook(cells):
    """A notebook, and the percent script that it is built from."""
    book = {"cells": [{"cell_type": kind, "source": text, "outputs": outputs} for kind, text, outputs in cells]}
    marks = {"markdown": ("# %% [markdown]", "# "), "code": ("# %%", "")}
    script = "\n".join("\n".join([marks[kind][0], *(marks[kind][1] + line for line in text.splitlines())])
                       for kind, text, _ in cells)
    return {"notebooks/01_one.ipynb": json.dumps(book), "notebooks/01_one.py": script}


FILES = {"README.md": "# Small\n\nStart with the [chapter](tutorial/01_one.md).\n", "tutorial/01_one.md": CHAPTER,
         "tutorial/glossary.md": '# Glossary\n\n<a id="word"></a>**word**: something said.\n',
         "tiny/one.py": '"""One."""\nONE = "<1>"\n', "tests/one/test_one.py": "pass\n",
         "tests/one/data.txt": "1\n"} | notebook(CELLS)


def write(root: Path, changes: dict[str, str]) -> Path:
    """Write the small repository with some files changed; return its folder."""
    for name, text in (FILES | changes).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "tutorial/figures").mkdir()
    picture(8, 4).save(root / "tutorial/figures/one.png")
    return root
