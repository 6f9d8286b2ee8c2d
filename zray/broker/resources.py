"""Resource arithmetic: amounts in ten-thousandths, shapes, and the free resources of a host.

Amounts are whole numbers, since ten times 0.1 must be 1. Pure.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from zray.accelerators import FAMILIES, accelerator_in
from zray.bundles import ANY, MARK, group_of, names_of, plain
from zray.ids import ENVIRONMENT_ID_BYTES
from zray.protocol.codec import MAX_SHAPE_BYTES, unpack
from zray.protocol.codec import shape_key as shape_key
from zray.protocol.messages import ProtocolError
from zray.scheduling.constraint import Constraint, constraint_from_row
from zray.scheduling.priority import MAX_PRIORITY

UNIT = 10_000
MAX_UNITS = 100_000
"""The most CPUs, or GPUs, of one host. The broker has a record for each."""
CPU, GPU, MEMORY, STORE = "CPU", "GPU", "memory", "object_store_memory"
HEAD = "node:__internal_head__"
"""A resource of one host, the head: the first that joins while no other is the head. The name is Ray's."""


class Shape:
    """What a task or actor asks for: resources, some of the hosts, a runtime environment, and a priority.

    ``cpus``: the part that is lent while it blocks in ``get``. ``cpus_used``: the CPUs that it runs on: these, or those
    of its placement group. ``constraint``: the hosts that may take it; None: all. ``environment_id``: empty for none.
    ``grant_key``: the key of the amounts alone, for workers. ``group``: the placement group in which it runs, in
    hexadecimal; empty if it is in none. ``gpus_from``: the names of the resources that its GPUs belong to: the plain
    one, or those of the group and perhaps of the bundle. GPUs stand here for accelerators of any family
    (``zray.accelerators``): a shape has those of one.
    """

    __slots__ = ("amounts", "constraint", "cpus", "cpus_used", "environment_id", "gpus", "gpus_from", "grant_key",
                 "group", "key", "priority")  # fmt: skip

    def __init__(
        self,
        key: bytes,
        amounts: dict[str, int],
        constraint: Constraint | None = None,
        environment_id: bytes = b"",
        priority: int = 0,
    ) -> None:
        self.key = key
        self.environment_id = environment_id
        self.amounts = amounts
        self.constraint = constraint
        self.priority = priority
        self.grant_key = shape_key(amounts) if constraint is not None or environment_id or priority else key
        self.cpus = amounts.get(CPU, 0)
        self.group = group_of(amounts)
        asked = plain(amounts) if self.group else amounts
        self.cpus_used = asked.get(CPU, 0)
        device = accelerator_in(asked) or GPU
        self.gpus_from: list[str] = [device]
        if self.group and device not in amounts:
            (of_group,) = names_of(device, self.group, ANY)
            of_bundles = [name for name in amounts if name.startswith(device + MARK) and name != of_group]
            self.gpus_from = [of_group, *of_bundles]
        self.gpus = amounts.get(self.gpus_from[0], 0)

    def __repr__(self) -> str:
        on = f" on {self.constraint}" if self.constraint is not None else ""
        return f"{describe(self.amounts)}{on}{f' at priority {self.priority}' if self.priority else ''}"


def read_shape(key: bytes) -> Shape:
    """Parses a shape. Raises ProtocolError if it is malformed."""
    if len(key) > MAX_SHAPE_BYTES:
        raise ProtocolError(f"malformed resources: more than {MAX_SHAPE_BYTES} bytes")
    try:
        fields, constraint, environment_id, priority = unpack(key), None, b"", 0
        if type(fields) is dict:
            if (row := fields["constraint"]) is not None:
                constraint = constraint_from_row(row)
            environment_id = fields["environment"]
            if type(environment_id) is not bytes or len(environment_id) not in (0, ENVIRONMENT_ID_BYTES):
                raise ProtocolError("malformed runtime environment")
            priority = fields.get("priority", 0)
            if type(priority) is not int or abs(priority) > MAX_PRIORITY:
                raise ProtocolError("malformed priority")
            fields = fields["amounts"]
        amounts = dict(fields)
        if not all(type(name) is str and type(amount) is int and amount > 0 for name, amount in amounts.items()):
            raise ProtocolError("malformed resources")
    except (ValueError, TypeError, KeyError) as error:
        raise ProtocolError(f"malformed resources: {error}") from None
    return Shape(key, amounts, constraint, environment_id, priority)


NOTHING = Shape(shape_key({}), {})


def describe(amounts: dict[str, int]) -> str:
    """Amounts as text, as users write them: ``{CPU: 2, GPU: 0.5}``; memory in GiB."""
    parts = [f"{name}: {_amount(name, value)}" for name, value in sorted(amounts.items()) if value]
    return "{" + ", ".join(parts) + "}"


def describe_host(amounts: dict[str, int], asked: Container[str] = ()) -> str:
    """A host's amounts as text. Resources that only name the host are left out, unless they are ``asked`` for."""
    return describe({name: value for name, value in amounts.items() if name in asked or not name.startswith("node:")})


def _amount(name: str, value: int) -> str:
    return f"{value / UNIT / 2**30:.3g} GiB" if name in (MEMORY, STORE) else f"{value / UNIT:g}"


def as_floats(amounts: dict[str, int]) -> dict[str, float]:
    """Amounts as users see them: whole units, as floats."""
    return {name: value / UNIT for name, value in amounts.items()}


class Pool:
    """A host's resources. Invariant: ``free`` plus all grants is ``total`` (of CPUs only, ``free`` may be negative).

    ``of_bundles``: the names that reserved bundles have added, see ``zray.bundles``.
    """

    __slots__ = ("_gpus", "_halves", "free", "of_bundles", "total")

    def __init__(self, total: dict[str, int]) -> None:
        self.total = dict(total)
        self.free = dict(total)
        self._halves = [(name, total[name] // 2) for name in (CPU, MEMORY) if total.get(name)]
        self.of_bundles: set[str] = set()
        # The free part of each GPU, by the resource that it belongs to. A GPU of a bundle is in the table of its group;
        # the bundle's own table only says which GPUs these are.
        self._gpus: dict[str, dict[int, int]] = {
            name: dict.fromkeys(range(total.get(name, 0) // UNIT), UNIT)
            for name in FAMILIES
            if name == GPU or name in total
        }

    def could_ever_fit(self, shape: Shape) -> bool:
        """Whether the shape fits into the empty host."""
        total = self.total
        return all(total.get(name, 0) >= amount for name, amount in shape.amounts.items())

    def is_roomy(self) -> bool:
        """Whether less than half of the CPUs and less than half of the memory are in use."""
        free = self.free
        for name, half in self._halves:  # noqa: SIM110 (a loop, as in ``fits``)
            if free[name] <= half:
                return False
        return True

    def fits(self, shape: Shape) -> bool:
        """Whether the shape fits now."""
        free = self.free
        for name, amount in shape.amounts.items():  # a loop, not all(): this is the scheduler's innermost test
            if free.get(name, 0) < amount:
                return False
        return not shape.gpus or self._pick_gpus(shape) is not None

    def how_many_fit(self, shape: Shape, most: int) -> int:
        """How many grants of a shape could be made now, up to ``most``."""
        for name, amount in shape.amounts.items():
            most = min(most, max(0, self.free.get(name, 0)) // amount)
        return most

    def take(self, shape: Shape) -> list[int]:
        """Grants a shape that fits; returns the indices of the GPUs."""
        free = self.free
        for name, amount in shape.amounts.items():
            free[name] -= amount
        gpus = self.next_gpus(shape) if shape.gpus else []
        if gpus:
            self._change_gpus(shape.gpus_from[0], gpus, -min(shape.gpus, UNIT))
        return gpus

    def next_gpus(self, shape: Shape) -> list[int]:
        """The indices of the GPUs that the next grant of a fitting shape gets."""
        return self._pick_gpus(shape) or []

    def give_back(self, shape: Shape, gpus: list[int]) -> None:
        """Undoes a ``take``."""
        for name, amount in shape.amounts.items():
            self.free[name] += amount
        if gpus:
            self._change_gpus(shape.gpus_from[0], gpus, min(shape.gpus, UNIT))

    def shrink(self, held: Shape, kept: Shape) -> None:
        """Gives back the part of a grant that is not kept. Which GPUs are held does not change."""
        for name, amount in held.amounts.items():
            self.free[name] += amount - kept.amounts.get(name, 0)

    def lend(self, cpus: int) -> None:
        """Frees the CPUs of a grant whose holder blocks, or (negative) takes them back when it goes on.

        A holder goes on at once, so more CPUs than there are may be in use for a moment.
        """
        self.free[CPU] += cpus

    def copy(self) -> Pool:
        """A copy, to try out what fits. Of the GPUs it has only those that no bundle holds."""
        made = Pool.__new__(Pool)
        made.total, made.free, made.of_bundles = self.total, dict(self.free), self.of_bundles
        made._halves = self._halves
        made._gpus = {name: dict(self._gpus[name]) for name in FAMILIES if name in self._gpus}
        return made

    # ------------------------------------------------------------------ bundles

    def reserve(self, shape: Shape, names: Mapping[str, int]) -> list[int]:
        """Reserves a bundle that fits: takes ``shape`` and adds ``names``. Returns the indices of the bundle's GPUs."""
        gpus = self.take(shape)
        for name, amount in names.items():
            self.total[name] = self.total.get(name, 0) + amount
            self.free[name] = self.free.get(name, 0) + amount
        self.of_bundles.update(names)
        if gpus:
            for name in names:
                if name.startswith(shape.gpus_from[0] + MARK):
                    self._change_gpus(name, gpus, min(shape.gpus, UNIT))
        return gpus

    def end_reservation(self, shape: Shape, names: Mapping[str, int], gpus: list[int]) -> None:
        """Undoes a ``reserve``. No work may hold resources of the bundle any more."""
        for name, amount in names.items():
            self.total[name] -= amount
            self.free[name] -= amount
            if not self.total[name]:
                del self.total[name], self.free[name]
                self.of_bundles.discard(name)
                self._gpus.pop(name, None)
            elif gpus and name in self._gpus:
                self._change_gpus(name, gpus, -min(shape.gpus, UNIT))
        self.give_back(shape, gpus)

    def without_bundles(self, amounts: dict[str, int]) -> dict[str, int]:
        """``amounts`` (``total`` or ``free``) as users see them: without the names that bundles have added."""
        if not self.of_bundles:
            return amounts
        return {name: amount for name, amount in amounts.items() if name not in self.of_bundles}

    # ------------------------------------------------------------------ GPUs

    def _change_gpus(self, resource: str, gpus: list[int], more: int) -> None:
        table = self._gpus.setdefault(resource, {})
        for index in gpus:
            table[index] = table.get(index, 0) + more

    def _pick_gpus(self, shape: Shape) -> list[int] | None:
        """Whole GPUs that are free, or the fullest one with enough left for a fraction."""
        amount = shape.gpus
        free_parts: dict[int, int] = self._gpus.get(shape.gpus_from[0], {})
        if len(shape.gpus_from) > 1:
            of_bundle = self._gpus.get(shape.gpus_from[1], {})
            free_parts = {index: free for index, free in free_parts.items() if index in of_bundle}
        if amount >= UNIT:
            whole = [index for index, free in free_parts.items() if free == UNIT]
            count = amount // UNIT
            return sorted(whole)[:count] if len(whole) >= count else None
        fitting = [(free, index) for index, free in free_parts.items() if free >= amount]
        return [min(fitting)[1]] if fitting else None


def check_amounts(amounts: Any) -> dict[str, int]:
    """Checks a host's totals as they came from the wire. Raises ProtocolError if they are malformed."""
    if not isinstance(amounts, dict) or not all(
        type(name) is str and type(value) is int and value >= 0 for name, value in amounts.items()
    ):
        raise ProtocolError("malformed resources of a host")
    if any(amounts.get(name, 0) > MAX_UNITS * UNIT for name in (CPU, *FAMILIES)):
        raise ProtocolError(f"a host with more than {MAX_UNITS:,} CPUs or accelerators")
    return dict(amounts)
