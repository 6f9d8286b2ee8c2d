"""Ray's ``ray.util.collective``, which is not part of zray: the import says what to use."""

from __future__ import annotations

raise ImportError(
    "zray has no collective communication (ray.util.collective): use torch.distributed or mpi4py between actors, or "
    "pass objects by reference",
    name=__name__,
)
