"""Classic mistakes of a prompt that is read in several passes, which the comparison with the oracle must refuse.

A mutant spoils the class of the model or the operations of a `Sight`, which then reads prompts by `prefill`.
"""

import numpy as np

from tests.mutants.model import RestartingCache
from tiny.kv_cache import KVCache


def take_with(s, change):
    """Change the images before a pass takes rows of them: change(images)."""
    class Spoiled(s.model):
        def take(self, images, run):
            change(images)
            return super().take(images, run)
    s.model = Spoiled


def a_row_is_lost_at_a_boundary(s):
    """The next pass begins one row late; the last one is there twice."""
    def change(images):
        if len(images.left):
            images.left = np.concatenate([images.left[1:], images.left[-1:]])
    take_with(s, change)


def every_pass_begins_its_image_anew(s):
    def change(images):
        if len(images.left):
            images.encoded, images.left = images.encoded - 1, ()
    take_with(s, change)


def every_image_is_the_first(s):
    def change(images):
        images.encoded = 0
    take_with(s, change)


def images_are_taken_from_the_end(s):
    class Spoiled(s.model):
        def look(self, ids, images):
            rows = super().look(ids, images)
            turned = type(rows)(rows[::-1])
            turned.unread = rows.unread
            return turned
    s.model = Spoiled


def rows_of_a_pass_are_text(s):
    """Only the first pass gets its images, as if the others were a conversation that goes on."""
    class Spoiled(s.model):
        def embed(self, ids, images, run):
            return super().embed(ids, images if not any(run.cache.lengths) else (), run)
    s.model = Spoiled


def positions_of_a_pass_restart(s):
    s.ops.new_cache = RestartingCache


def a_pass_sees_only_itself(s):
    class Forgetful(KVCache):
        def append(self, layer, k, v, lengths):
            spans = super().append(layer, k, v, lengths)
            return [(stop - length, stop) for (_, stop), length in zip(spans, lengths)]
    s.ops.new_cache = Forgetful


def a_cache_rounds_without_being_asked(s):
    s.ops.new_cache = lambda *sizes: KVCache(*sizes[:4], "bfloat16")


PASS_MUTANTS = {f.__name__: f for f in (
    a_row_is_lost_at_a_boundary, every_pass_begins_its_image_anew, every_image_is_the_first,
    images_are_taken_from_the_end, rows_of_a_pass_are_text, positions_of_a_pass_restart, a_pass_sees_only_itself,
    a_cache_rounds_without_being_asked)}
