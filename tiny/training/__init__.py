"""The trainer of the embedded model, in NumPy: backward passes, optimiser, data and the run itself."""
