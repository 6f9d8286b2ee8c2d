"""Large objects from machine to machine.

``core`` (pure) decides what is asked of whom, and answers others while it is still receiving itself; ``chunks`` is the
form in which a piece travels; ``channels`` are the direct connections between hosts; ``shell`` is what a host does of
it: room in its store, local readers, channels. A driver on a machine without a host has the core too, and memory for a
store.
"""
