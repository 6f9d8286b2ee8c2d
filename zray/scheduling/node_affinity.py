"""``NodeAffinitySchedulingStrategy``: run on one host."""

from __future__ import annotations

from typing import Any

from zray.scheduling.constraint import Choice, Constraint

_ID_LENGTHS = (16, 28)
"""The lengths of a node's identifier in bytes, in zray and in Ray. Programs have constants of Ray's length."""


class NodeAffinitySchedulingStrategy:
    """Runs a task or actor on the host ``node_id``.

    If the host has no room at the moment, the work waits for room there, also if ``soft``.

    Args:
        node_id: the host's identifier in hexadecimal digits, as in ``zray.nodes()`` and
            ``RuntimeContext.get_node_id()``; or an object with a method ``hex`` that returns them.
        soft: if the host does not exist, or is too small even when it is empty: True: run on another host; False: fail
            with TaskUnschedulableError or ActorUnschedulableError.
        _spill_on_unavailable: with ``soft``: run on another host also if the host has no room at the moment.
        _fail_on_unavailable: without ``soft``: fail also if the host has no room at the moment.

    Raises:
        ValueError: ``node_id`` is not an identifier, or the last two arguments do not go with ``soft``.
    """

    def __init__(
        self,
        node_id: Any,
        soft: bool,
        _spill_on_unavailable: bool = False,
        _fail_on_unavailable: bool = False,
    ) -> None:
        self.node_id: str = node_id if isinstance(node_id, str) else node_id.hex()
        self.soft = soft
        self._spill_on_unavailable = _spill_on_unavailable
        self._fail_on_unavailable = _fail_on_unavailable
        self._id = _read_id(self.node_id)
        if _spill_on_unavailable and not soft:
            raise ValueError("_spill_on_unavailable cannot be set with soft=False: set soft=True too")
        if _fail_on_unavailable and soft:
            raise ValueError("_fail_on_unavailable cannot be set with soft=True: set soft=False too")

    def constraint(self) -> Constraint:
        """Returns which hosts may take the work."""
        choices = [Choice(self._id, [])] + [Choice(b"", [])] * bool(self.soft)
        insists = bool(self.soft and not self._spill_on_unavailable)
        return Constraint(choices, insists, not self.soft, bool(self._fail_on_unavailable))

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy(node_id={self.node_id!r}, soft={self.soft!r})"


def _read_id(text: str) -> bytes:
    try:
        node_id = bytes.fromhex(text)
    except ValueError:
        node_id = b""
    if len(node_id) not in _ID_LENGTHS or node_id == b"\xff" * len(node_id):
        raise ValueError(
            f"Invalid node_id {text!r}: it must be the identifier of a node in hexadecimal digits, such as "
            f"zray.nodes()[0]['NodeID']"
        )
    return node_id
