"""A placement group, and the line in which groups wait."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from zray.broker.accounts import Share
from zray.broker.lines import Waiting
from zray.broker.packing import Trial, choose, domains
from zray.broker.records import Host
from zray.broker.resources import Pool, Shape, shape_key
from zray.broker.states import GROUP, PENDING
from zray.protocol.records import GroupSpec

SHOWN = 10
"""How many bundles of a group a text names."""


def total(shapes: Iterable[Shape]) -> Shape:
    """The sum of shapes. Raises ValueError if it is too large."""
    amounts: dict[str, int] = {}
    for shape in shapes:
        for name, amount in shape.amounts.items():
            amounts[name] = amounts.get(name, 0) + amount
    return Shape(shape_key(amounts), amounts)


class Group:
    """A placement group.

    Invariants: bundle ``i`` is reserved exactly if ``hosts[i]`` is a host. All are in state CREATED, none in PENDING.
    ``line`` is the line in which it waits; None if it does not. ``actor``: the actor that created it, or empty.
    ``by_job``: it ends with its job, unless ``actor`` lives on.
    """

    __slots__ = (
        "actor",
        "attempts",
        "by_job",
        "created_s",
        "group_id",
        "had",
        "hosts",
        "job_id",
        "line",
        "looked_at",
        "name",
        "shapes",
        "since",
        "spec",
        "state",
        "watchers",
    )  # fmt: skip

    def __init__(self, group_id: bytes, spec: GroupSpec, job_id: bytes, actor: bytes, by_job: bool, now: float) -> None:
        """Raises ValueError if a bundle is malformed."""
        self.group_id = group_id
        self.name = group_id.hex()
        self.spec = spec
        self.shapes = [Shape(shape_key(bundle), bundle) for bundle in spec.bundles]
        total(self.shapes)
        self.job_id = job_id
        self.actor = actor
        self.by_job = by_job
        self.state = PENDING
        self.hosts: list[Host | None] = [None] * len(self.shapes)
        self.had: list[bytes] = []  # the hosts of the bundles when it was removed
        self.line: GroupLine | None = None
        self.attempts = 0
        self.looked_at = False  # whether it was found out if it fits at all
        self.since = now  # when it began to wait
        self.created_s = 0.0  # how long it waited
        self.watchers: list[tuple[bytes, int]] = []

    def enter(self, state: int) -> None:
        """Changes the state. Raises IllegalTransition if it cannot follow the present one."""
        self.state = GROUP.after[self.state][state]

    @property
    def outlives_job(self) -> bool:
        """Whether it does not end with its job: it is detached, or a detached actor has created it."""
        return self.spec.detached or not self.by_job

    def missing(self) -> list[tuple[int, Shape]]:
        """The bundles that are not reserved, with their indices."""
        return [(index, self.shapes[index]) for index, host in enumerate(self.hosts) if host is None]

    @property
    def wanted(self) -> Shape:
        """What the group waits for, as a sum."""
        assert self.line is not None, "the group does not wait"
        return self.line.share.shape

    @property
    def label(self) -> str:
        """The group's name in messages."""
        return f"'{self.spec.name}' ({self.name})" if self.spec.name else self.name

    def used(self) -> set[bytes]:
        """The hosts that have bundles."""
        return {host.host_id for host in self.hosts if host is not None}

    @property
    def kind(self) -> str:
        """The strategy and what is asked of the hosts' labels, for people."""
        parts = [self.spec.strategy]
        if self.spec.selectors:
            each = [" and ".join(map(str, selector.terms)) or "any" for selector in self.spec.selectors[:SHOWN]]
            parts.append(f"hosts where {', '.join(each)}")
        if self.spec.topology:
            parts.append(f"all with the same {self.spec.topology}")
        return "; ".join(parts)

    @property
    def domain(self) -> str | None:
        """The value of the label that its hosts share; None if no bundle is reserved, or it shares no label."""
        return next((host.info.labels.get(self.spec.topology) for host in self.hosts if host is not None), None)

    def admits(self, host: Host, index: int) -> bool:
        """Whether a host fulfils the conditions of a bundle."""
        selectors = self.spec.selectors
        return not selectors or all(term.holds(host.info.labels) for term in selectors[index].terms)

    def hosts_for(self, hosts: list[Host], pool_of: Callable[[Host], Pool]) -> dict[int, Host] | None:
        """Hosts for all of the missing bundles, by their indices; None if there are none.

        ``pool_of``: the resources that a host has for it.
        """
        spec = self.spec
        for candidates in domains(hosts, spec.topology, self.domain, pool_of):
            trial = Trial(candidates, self.admits if spec.selectors else None, pool_of)
            found = choose(spec.strategy, self.missing(), trial, self.used(), spec.soft_target)
            if found is not None:
                return found
        return None


class GroupLine:
    """Groups of one job that ask for the same and wait. They are served in order. See ``OtherLine``."""

    def __init__(self, share: Share, place: Callable[[Group], bool]) -> None:
        self.share = share
        self.full = False  # no room was found at the last pass
        self.groups: OrderedDict[bytes, Group] = OrderedDict()
        self._place = place

    def __len__(self) -> int:
        return len(self.groups)

    def waiting(self) -> int:
        """The number of groups that wait."""
        return len(self.groups)

    def first(self) -> Group:
        """The group that is next. The line must not be empty."""
        return next(iter(self.groups.values()))

    def wanted(self) -> list[Waiting]:
        """The missing bundles of the next group."""
        return [Waiting(shape, is_part=True) for _, shape in self.first().missing()] if self.groups else []

    def serve(self, changed: dict[bytes, Host]) -> Iterator[None]:
        """Reserves one group after the other while there is room."""
        while self.groups:
            group = self.first()
            shapes = {shape.key: shape for _, shape in group.missing()}.values()
            if self.full and not any(host.pool.fits(shape) for host in changed.values() for shape in shapes):
                return
            self.full = not self._place(group)
            if self.full:
                return
            yield
