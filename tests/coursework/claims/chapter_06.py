"""The numbers of chapter 6, each from where it comes; those of Mixtral 8x7B are from its release."""

from tiny.generate import PREFILL
from tiny.tools.memory import kv_bytes
from tiny.tools.releases import MIXTRAL_8X7B as MIXTRAL
from tiny.tools.token_cost import token_cost
from tutorial.drawings import chapter_06 as drawn

first, last = (token_cost(MIXTRAL, past, 2) for past in (0, MIXTRAL.max_seq_len - 1))
cache = MIXTRAL.max_seq_len * kv_bytes(MIXTRAL, 2)
expert = 3 * MIXTRAL.dim * MIXTRAL.hidden_dim
six = 2 * MIXTRAL.n_layers * (MIXTRAL.moe.num_experts - MIXTRAL.moe.num_experts_per_tok) * expert
moved, operations = drawn.moved_and_computed(MIXTRAL, 1, 4096)
short = drawn.moved_and_computed(MIXTRAL, 1, 512)
assert first == drawn.moved_and_computed(MIXTRAL, 1, 1) and round(first[1] / first[0]) == 1
assert [round(number / 1e9) for number in first] == [25, 25] and drawn.TOP_P == 0.9

NUMBERS = {str(MIXTRAL.head_dim), str(kv_bytes(MIXTRAL, 2) // 2**10), f"{MIXTRAL.max_seq_len:,}", f"{PREFILL:,}",
           "0.6", "0.9", "1.3", "900", "250", "4,096",  # of examples, and of the machine in the picture
           "512", f"{short[1] / short[0]:.0f}", "1,000", "1,001", "1,099", "100", f"{operations / moved:,.0f}",
           f"{first[0] / 1e9:.1f}", f"{last[0] / 1e9:.1f}", f"{cache / 1e9:.1f}", f"{six / 1e9:.1f}"}
assert drawn.OPERATIONS / drawn.BANDWIDTH == 250 and f"{operations / moved:,.0f}" == "1,150"
