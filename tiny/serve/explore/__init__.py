"""The page of `python -m tiny explore`, served to a browser on this machine. What it answers is in tiny/tools/explore."""
