"""Tolerances of the comparisons with stored references: largest absolute error, float32.

Each is a few times what was measured, and far below what a mistake costs. "Measured" is the largest error
of this code over all cases of both reference checkpoints, both layouts (2026-11-23, Intel Xeon with AVX-512, NumPy
2.4.6 with OpenBLAS 0.3.31); "references" is by how much the two reference implementations differ from each other.
The logits have standard deviation 2 and reach 11.
"""

#                         use      measured  references
ORACLE = {
    "embed":              0.0,   # 0         0
    "experts":            0.0,   # 0         0
    "router_logits":      1e-4,  # 1.5e-5    2e-5
    "expert_weights":     3e-5,  # 2.4e-6    4e-6
    "q":                  1e-5,  # as k
    "k":                  1e-5,  # 1.4e-6    1e-6
    "v":                  1e-5,  # 1.2e-6    1e-6
    "attn":               1.5e-4,  # 1.2e-5  2e-5
    "layer":              4e-4,  # 3.6e-5    1e-4
    "norm":               1.2e-4,  # 1.8e-5  2e-5
    "logits":             2e-4,  # 2.0e-5    5e-5; 4.9e-5 token by token
    "logprobs":           2e-4,  # 2.0e-5   as logits
    "rope":               2e-6,  # 5.5e-7   same angles; torch forms them in float32
}

# The same for the reference checkpoint of Pixtral, whose embeddings of patches reach 25.
PIXTRAL = {
    "embed of text":      0.0,   # 0         0
    "patch_conv":         5e-6,  # 2.2e-7    0
    "vision_ln_pre":      4e-5,  # 4.1e-6    0
    "vision_attn":        8e-5,  # 1.2e-5    6e-6
    "vision_layer":       2e-4,  # 3.1e-5    2e-5
    "projector":          3e-4,  # 5.3e-5    3e-5
    "embed":              3e-4,  # 5.3e-5    3e-5
    "k":                  1e-4,  # 2.2e-5
    "v":                  1e-4,  # 1.5e-5
    "attn":               1.5e-4,  # 2.4e-5  2e-5
    "layer":              4e-4,  # 9.8e-5    1e-4
    "norm":               1.2e-4,  # 2.5e-5  2e-5
    "logits":             2e-4,  # 3.3e-5    5e-5; 4.6e-5 token by token
    "logprobs":           2e-4,  # 1.8e-5   as logits
    "rope":               8e-7,  # 1.9e-7   same angles; torch forms them in float32
    "alone":              1.5e-4,  # 3.1e-5  seven images packed, against each by itself
    "bfloat16":           0.25,  # 0.062    where torch adds in another order
}

# Against loops in float64, whole random models of 1 to 3 layers; the logits have standard deviation 1 to 2.
MODEL = {"logits": 3e-5,  # 6.3e-6
         "layer": 3e-5}  # 5.7e-6

# Numbers that were printed: half a unit of the last decimal and a little for float32; the total is a sum of 768 logits.
FIXTURE = {"printed": 6e-6, "sum": 2e-7, "total": 1e-4, "norm": 2e-6, "nll": 1e-6, "aux": 4e-7, "bfloat16": 1e-2,
           # Of RoPE on one head, measured 2.4e-7; of the small vision encoder, 7.3e-7 of a number, 3.6e-6 of 288.
           "sum of a head": 1e-6, "encoder": 3e-6, "sum of the encoder": 2e-5}

# Operations against loops in float64, on numbers of standard deviation 1.
OPS = {
    "softmax": 1e-7,      # 1.9e-8
    "silu": 2e-6,         # 4.9e-7  of values up to 16
    "linear": 1.5e-5,     # 3.0e-6  16 terms of size 1; 5.5e-5 with 1,024 of them
    "rms_norm": 3e-6,     # 7.6e-7
    "rope_table": 1.5e-7,  # 3.0e-8
    "rope": 1.5e-6,       # 3.7e-7
    "rope_scores": 3e-6,  # 6.5e-7
    "attention": 3e-6,    # 6.6e-7
    "route": 8e-7,        # 1.8e-7
    "experts": 5e-6,      # 1.1e-6
    "erf": 1.5e-6,        # 3.5e-7
    "gelu": 4e-7,         # 8.3e-8  of values up to 7, beside 3e-7 of the value
    "patch_embed": 3e-6,  # 5.3e-7
    "adapter": 2e-5,      # 2.7e-6  of values up to 10
    "vision": 8e-5,       # 1.7e-5  the whole encoder, values of standard deviation 4 up to 16
}
