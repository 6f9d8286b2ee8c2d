"""How rows are measured: a module per group, whose `MEASURES` maps row names to the function that yields their values.

Each function is given a peer and a pace, and returns one value per name. All run in a started peer, one after the
other, except those of `lifecycle`, which start and stop the peer themselves.
"""
