"""What a teacher hands out: `python -m tutorial.pack`."""
