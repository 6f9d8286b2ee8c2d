"""The client core: everything that a driver or worker decides. ``client_core`` puts its tables together.

``tasks``: what was submitted; ``references``, ``locations`` and ``directory``: objects, who holds them and where they
are; ``actors``: handles and calls; ``execution``: what a worker was given to run; ``windows``: how much may be under
way to whom.
"""
