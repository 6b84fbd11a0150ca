"""Predictions of what kernels take on an H100, made before any of them ran on one: evidence, a model, a record.

Read `sass.py` and `evidence.py` (what is known of a launch without a GPU), `model.py` (from that to a range of time),
`__main__.py` (the record, to which rows are added and in which none is changed).

What nobody can know here: how often caches hit, how rows of the memory's banks follow each other, replays, the clock
under load, and why a warp waits. So a prediction is a range: its lower end is what the counts allow, its upper end what
a public kernel of the kind reached of that.
"""
