"""The site of this repository, built once for all tests of this folder."""

import pytest
from oracles import ROOT


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder with the pages."""
    pytest.importorskip("furo", reason="The site needs Sphinx and Furo: make site installs them.")
    from tutorial.site.build import build

    folder = tmp_path_factory.mktemp("site")
    wrong = build(ROOT, folder)
    assert not wrong, "\n".join(wrong)
    return folder / "html"
