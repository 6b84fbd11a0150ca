"""The pictures of the chapters, a module for each chapter: `chapter_07.draw()` gives those of chapter 7 by name; and of
pages of the reference, `page_NAME.py`.

`python -m tutorial.draw_figures` draws them all; a new module is found by its name. Numbers in a picture come from the
embedded models or from the functions of `tiny/`, never from the drawing.
"""

import importlib
import pkgutil

PAPER = "#fafafa"  # the ground of every picture: light also on a dark page


def all_pictures() -> dict:
    """Every picture of every module `chapter_NN` or `page_NAME`, by name; its gid is the name of the module.

    Raises:  ValueError if two chapters draw a picture of the same name
    """
    pictures: dict = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith(("chapter_", "page_")):
            continue
        drawn = importlib.import_module(f"{__name__}.{module.name}").draw()
        if twice := sorted(pictures.keys() & drawn.keys()):
            raise ValueError(f"{module.name} draws {', '.join(twice)}, as another chapter does. Give it another name.")
        for figure in drawn.values():
            figure.set_gid(f"{__name__}.{module.name}")
        pictures |= drawn
    return pictures
