"""Exercise 6.5, bytes and operations of one token: one test for each idea.

Most tests change one size and look at what that changes, so that each product is seen alone.
"""

from dataclasses import replace

from compare import assert_close
from small import sizes

from tiny.config import MoeConfig
from tiny.tools import token_cost as book
from tiny.tools.releases import MIXTRAL_8X7B, PIXTRAL_12B

BYTES, OPERATIONS = 0, 1
TINY = replace(MIXTRAL_8X7B, dim=128, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=32, hidden_dim=256, vocab_size=2048)
BASE = sizes((4, 2))  # dim 24, 2 layers, 6 heads of 10 numbers, 2 KV heads, hidden 28


def more(config, other, past=0, itemsize=1):
    """By how much a token costs more with the second configuration: bytes and operations."""
    before, after = (book.token_cost(c, past, itemsize) for c in (config, other))
    return [after[n] - before[n] for n in (BYTES, OPERATIONS)]


def wider(moe):
    """One more number inside the networks of a layer with these experts."""
    config = sizes(moe)
    return more(config, replace(config, hidden_dim=config.hidden_dim + 1))


def test_only_the_chosen_experts_count():
    assert_close(wider((8, 2))[BYTES], 2 * 2 * 3 * 24, 0.0,
                 name="more weights, if the hidden vectors of 2 of 8 experts in 2 layers of width 24 are one longer")
    assert_close(wider((4, 3))[BYTES], 2 * 3 * 3 * 24, 0.0, name="the same, of 3 of 4 experts")


def test_without_experts_there_is_one_network():
    assert_close(wider(None)[BYTES], 2 * 3 * 24, 0.0, name="the same, of the one network of a dense layer")


def test_a_weight_is_a_product_and_a_sum():
    assert_close(wider((8, 2))[OPERATIONS], 2 * 2 * 2 * 3 * 24, 0.0,
                 name="more operations, if the hidden vectors of 2 experts in 2 layers of width 24 are one longer")


def test_the_router_scores_all_experts():
    config = replace(BASE, moe=MoeConfig(5, 2))
    assert_close(more(BASE, config), [2 * 24, 2 * 2 * 24], 0.0, name="bytes and operations of one more expert to score")


def test_the_vocabulary_is_scored():
    config = replace(BASE, vocab_size=BASE.vocab_size + 1)
    assert_close(more(BASE, config), [24, 48], 0.0, name="bytes and operations of one more token in the vocabulary")


def test_the_cache_is_moved_too():
    at = [book.token_cost(BASE, past, 1)[BYTES] for past in (10, 11)]
    assert_close(at[1] - at[0], 2 * 2 * 2 * 10, 0.0, name="more bytes, if one more token is in the cache")


def test_each_query_head_works_on_each_key_and_value():
    at = [book.token_cost(BASE, past, 1)[OPERATIONS] for past in (10, 11)]
    assert_close(at[1] - at[0], 2 * 6 * 2 * 2 * 10, 0.0, name="more operations, if one more token is in the cache")


def test_a_token_sees_itself():
    cost = book.token_cost(replace(BASE, dim=0), 0, 1)  # without a width there are no weights
    assert_close(cost, [2 * 2 * 2 * 10, 2 * 6 * 2 * 2 * 10], 0.0,
                 name="bytes and operations of the first token's own key and value")


def test_heads_have_a_size_of_their_own():
    longer = replace(BASE, head_dim=BASE.head_dim + 1)
    weights, kept = 2 * 24 * (2 * 6 + 2 * 2), 2 * 2 * 2
    assert_close(more(BASE, longer), [weights + kept, 2 * weights + 2 * 6 * 2 * 2], 0.0,
                 name="bytes and operations, if each of 6 query heads and 2 KV heads has one number more")


def test_a_number_has_itemsize_bytes():
    one, four = (book.token_cost(BASE, 5, itemsize) for itemsize in (1, 4))
    assert_close(four, [4 * one[BYTES], one[OPERATIONS]], 0.0, name="bytes and operations with numbers of 4 bytes")


def test_three_models():
    """Mixtral 8x7B and the decoder of Pixtral 12B in bfloat16, tiny-mixtral in float32."""
    for name, config, past, itemsize, expected in (
            ("Mixtral 8x7B", MIXTRAL_8X7B, 0, 2, [25497305088, 25497698304]),
            ("Mixtral 8x7B", MIXTRAL_8X7B, 32767, 2, [29792141312, 42677043200]),
            ("Pixtral 12B", PIXTRAL_12B, 4095, 2, [23823646720, 25836912640]),
            ("tiny-mixtral", TINY, 99, 4, [5201920, 2703360])):
        assert_close(book.token_cost(config, past, itemsize), expected, 0.0,
                     name=f"bytes and operations of {name}, {past} tokens before")
