"""Large objects between machines.

``core`` (pure) decides what to ask of which process, and serves other processes while it is still receiving. Its parts
are ``windows``, which chunks are under way from which process; ``requests``, what other processes ask for; ``records``,
what is kept of each pull and each peer; and ``effects``, what the shell is to do. ``chunks`` is the form in which a
piece travels. ``channels`` (in ``zray/transport``) are direct connections between hosts. ``shell`` is the host's part:
room in its store, local readers, channels. A driver on a machine without a host has the core too, and memory instead of
a store.
"""
