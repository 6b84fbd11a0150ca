"""What the page of `python -m tiny explore` answers, without a server: runs, rows, switches. README.md is the map."""
