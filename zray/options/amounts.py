"""Amounts of resources: what may be given, and how it is counted.

Amounts are kept as given. They are counted as integers, in ten-thousandths, so that fractions add up.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping

from zray.accelerators import fault_of, fault_of_amount
from zray.options.given import Given, sendable

UNITS = 10_000
"""The units in one CPU, one GPU, or 1 of another resource. The smallest amount is one unit."""

ACCELERATOR_TYPE_AMOUNT = 0.001
"""How much of the resource ``accelerator_type:X`` the option ``accelerator_type`` takes, as in Ray."""

MAX_AMOUNT = 2**63 // UNITS
"""The largest amount of a resource. In units it fits an integer of 64 bits."""


def units_of(
    num_cpus: float, num_gpus: float, memory: int, resources: Mapping[str, float], accelerator_type: str | None
) -> dict[str, int]:
    """Returns what is asked for, in ten-thousandths, by resource; zero amounts are left out.

    ``memory``: in bytes. Raises ValueError if two families of accelerators are asked for.
    """
    given = {"CPU": num_cpus, "GPU": num_gpus, "memory": memory, **resources}
    if num_gpus and (fault := fault_of(name for name, amount in given.items() if amount)):
        raise ValueError(f"num_gpus={num_gpus!r} with resources={resources!r}: {fault}")
    if accelerator_type:
        given[f"accelerator_type:{accelerator_type}"] = ACCELERATOR_TYPE_AMOUNT
    units = {name: _units(amount) for name, amount in given.items()}
    return {name: amount for name, amount in units.items() if amount}


def _units(amount: float) -> int:
    # Rounded down, so that three tasks of 1/3 fit. The tolerance absorbs rounding errors such as that of 0.1 + 0.2.
    return amount * UNITS if isinstance(amount, int) else math.floor(amount * UNITS + 1e-6)


def read_amount(given: Given) -> float:
    if isinstance(given.value, bool) or not isinstance(given.value, numbers.Real):
        given.wrong_type("a number >= 0")
    value: float = int(given.value) if isinstance(given.value, numbers.Integral) else float(given.value)
    if value < 0:
        given.wrong_value(f"The quantity of resource {given.resource or given.name} cannot be negative")
    if not math.isfinite(value):
        given.wrong_value("it must be a finite number")
    if value > MAX_AMOUNT:
        given.wrong_value(f"it must be at most {MAX_AMOUNT:,}")
    if 0 < value * UNITS < 1 - 1e-6:
        given.wrong_value(f"the smallest amount is {1 / UNITS}")
    return value


def read_gpus(given: Given) -> float:
    value = read_amount(given)
    if fault := fault_of_amount("GPU", value):
        given.wrong_value(fault)
    return value


def read_memory(given: Given) -> int:
    return int(read_amount(given))


_OWN_OPTION = {"CPU": "num_cpus", "GPU": "num_gpus", "memory": "memory"}


def read_resources(given: Given) -> dict[str, float]:
    if not isinstance(given.value, Mapping):
        given.wrong_type("a dict of names and amounts")
    amounts = {}
    for name, amount in given.value.items():
        if not isinstance(name, str):
            given.wrong_type("a dict whose keys are strings")
        if not name:
            given.wrong_value("the name of a resource cannot be empty")
        sendable(name, given)
        if name in _OWN_OPTION:
            given.wrong_value(
                "Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and 'GPU' in 'resources' keyword, "
                f"and 'memory' likewise: {_OWN_OPTION[name]}={amount!r}"
            )
        of_name = Given(given.what, f"resources[{name!r}]", amount, name)
        amounts[name] = read_amount(of_name)
        if fault := fault_of_amount(name, amounts[name]):
            of_name.wrong_value(fault)
    if fault := fault_of(name for name, amount in amounts.items() if amount):
        given.wrong_value(fault)
    return amounts
