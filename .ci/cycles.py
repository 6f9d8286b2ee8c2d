"""Says which modules of zray import each other in a circle; exit code 1 if some do.

Import-linter looks at layers, and not at imports for type checkers. Within a layer, or for types, modules may still
need each other, and then neither can be read, tested or moved by itself.
"""

from __future__ import annotations

import sys

import grimp


def main() -> int:
    """Prints the circles; returns the exit code."""
    graph = grimp.build_graph("zray", exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    circles = circles_of(imports)
    for circle in circles:
        print("these modules import each other:")
        for module in circle:
            print(f"  {module} imports {', '.join(sorted(imports[module] & set(circle)))}")
    print(f"Import cycles: {len(circles) or 'none'}, of {len(imports)} modules.")
    return int(bool(circles))


def circles_of(imports: dict[str, set[str]]) -> list[list[str]]:
    """The sets of modules that reach each other (strongly connected components), without those of one module."""
    reached = {module: reachable(module, imports) for module in imports}
    circles = {frozenset(other for other in reached[module] if module in reached.get(other, ())) for module in imports}
    return sorted(sorted(circle) for circle in circles if len(circle) > 1)


def reachable(module: str, imports: dict[str, set[str]]) -> set[str]:
    """What a module imports, directly or not."""
    found: set[str] = set()
    left = [module]
    while left:
        for other in imports.get(left.pop(), ()):
            if other not in found:
                found.add(other)
                left.append(other)
    return found


if __name__ == "__main__":
    sys.exit(main())
