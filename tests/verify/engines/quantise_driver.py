"""Quantise a GGUF file as llama.cpp does: SOURCE TARGET KIND, as q4_k_m."""

import ctypes
import sys

import llama_cpp

source, target, kind = sys.argv[1:]
options = llama_cpp.llama_model_quantize_default_params()
options.nthread, options.ftype = 1, getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
sys.exit(llama_cpp.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(options)))
