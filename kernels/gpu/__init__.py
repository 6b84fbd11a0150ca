"""The kernels on a GPU, checked and timed: `python -m kernels.gpu`."""
