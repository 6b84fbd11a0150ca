"""The page of `python -m tiny explore`, for a browser on this machine. What it answers is in tiny/tools/explore."""
