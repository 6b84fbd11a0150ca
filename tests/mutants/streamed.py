"""Classic mistakes of weights that are read while the model computes. Each is a wrong function in the place of a right
one: `plant(patch)` with pytest's monkeypatch.
"""

from types import SimpleNamespace

from tiny.files import streamed
from tiny.files.streamed import shelf
from tiny.system import direct


def buffer_given_away_while_in_use(patch):
    """Nobody knows which arrays are alive."""
    array = shelf.Tenant.array

    def forgetful(self, like):
        made = array(self, like)
        self.handed_out = lambda: None
        return made
    patch.setattr(shelf.Tenant, "array", forgetful)




def arrays_handed_out_before_they_are_there(patch):
    patch.setattr(direct.DirectReader, "wait", lambda self, arrival: self.start_threads())


def expert_of_the_layer_before(patch):
    """The spans of a layer's experts are those of the layer before."""
    find_spans = streamed.find_spans

    def shifted(tensors):
        spans = find_spans(tensors)
        return {name: spans[name.replace("layers.1.", "layers.0.") if ".experts." in name else name] for name in spans}
    patch.setattr(streamed, "find_spans", shifted)


def expert_sent_for_in_the_layer_before(patch):
    """What is fetched are the experts of the layer before: right numbers, and twice the reads."""
    fetch = streamed.Streamed.fetch
    patch.setattr(streamed.Streamed, "fetch", lambda self, names: fetch(self, [
        name.replace("layers.1.", "layers.0.") for name in names]))


def nothing_is_given_up(patch):
    """The least recently used tensor never makes room."""
    patch.setattr(shelf.Shelf, "make_room", lambda self, name, wanted: True)


def most_recently_used_goes_first(patch):
    choose = shelf.Shelf.choose
    patch.setattr(shelf.Shelf, "choose", lambda self, free: choose(self, free[::-1]))


def the_oldest_of_all_layers_goes_first(patch):
    """With less memory than a token's experts, that is always the one that comes next."""
    patch.setattr(shelf.Shelf, "choose", lambda self, free: free[0])


def tail_beyond_the_last_whole_page_lost(patch):
    patch.setattr(direct, "whole_pages", lambda size: size // direct.PAGE * direct.PAGE)


def tensors_begin_at_a_page(patch):
    """The place inside the first page is forgotten."""
    class Arrival(direct.Arrival):
        skip = property(lambda self: 0, lambda self, value: None)
    patch.setattr(direct, "Arrival", Arrival)


def rows_of_heads_in_the_order_of_the_file(patch):
    """The view that undoes Hugging Face's order is made as if it were contiguous."""
    array = shelf.Tenant.array
    patch.setattr(shelf.Tenant, "array", lambda self, like: array(self, SimpleNamespace(
        shape=like.shape, dtype=like.dtype, strides=None)))


def embedding_of_the_next_row(patch):
    rows = streamed.Streamed.rows
    patch.setattr(streamed.Streamed, "rows", lambda self, ids: rows(self, [max(0, row - 1) for row in ids]))




MUTANTS = (buffer_given_away_while_in_use, arrays_handed_out_before_they_are_there, expert_of_the_layer_before,
           expert_sent_for_in_the_layer_before, nothing_is_given_up, most_recently_used_goes_first,
           the_oldest_of_all_layers_goes_first, tail_beyond_the_last_whole_page_lost, tensors_begin_at_a_page,
           rows_of_heads_in_the_order_of_the_file, embedding_of_the_next_row)
