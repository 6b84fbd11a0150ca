"""A fuzzer of everything that reads: `python -m tests.fuzz --help`. Read engine.py, then mutate.py, then targets/."""
