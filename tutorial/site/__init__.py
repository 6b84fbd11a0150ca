"""The tutorial as a site of plain files: `python -m tutorial.site` writes it, and any browser opens it offline."""
