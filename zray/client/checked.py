"""The references that ``wait`` has returned as not ready.

Programs pass them to the next call. That need not check again that they are distinct references: in a loop over
thousands, the check takes longer than all the rest.
"""

from __future__ import annotations

from typing import Any

from zray.object_ref import ObjectRef

MANY = 256
"""The smallest number of references that are kept. It takes 10 us to check fewer."""


class CheckedRefs:
    """The last references that were checked.

    They are held until ``forget``. It has to be called soon, since the program may have dropped them.
    """

    __slots__ = ("_refs",)

    def __init__(self) -> None:
        self._refs: list[ObjectRef] = []

    def keep(self, refs: list[ObjectRef]) -> None:
        """Notes that ``refs`` are distinct references. Does nothing if there are few."""
        if len(refs) >= MANY:
            self._refs = refs.copy()  # the program may change the list

    def has(self, refs: list[Any]) -> bool:
        """Whether ``refs`` are the references that were kept last, in the same order.

        Something that claims to equal a reference, as ``unittest.mock.ANY`` does, counts as that reference.
        """
        kept = self._refs
        if len(kept) != len(refs) or not kept:
            return False
        try:
            return kept == refs  # stops at the first difference, and calls no code for what is the same object
        except Exception:  # something that is no reference refuses to be compared
            return False

    def forget(self) -> None:
        """Holds no references any more."""
        self._refs = []
