"""Order a graph of names and find its cycles; `needs[a]` holds what must come before `a`."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush


def topological(names: Sequence[str], needs: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """Order `names` with everything after what it needs, otherwise in the order given.

    Names on a cycle, and what needs them, are left out: the caller compares lengths.
    """
    rank = {name: index for index, name in enumerate(names)}
    waiting = {name: {need for need in needs.get(name, ()) if need in rank} for name in names}
    dependants: dict[str, list[str]] = {name: [] for name in names}
    for name, before in waiting.items():
        for need in before:
            dependants[need].append(name)
    ready = [rank[name] for name, before in waiting.items() if not before]
    heapify(ready)
    ordered: list[str] = []
    while ready:
        name = names[heappop(ready)]
        ordered.append(name)
        for dependant in dependants[name]:
            waiting[dependant].discard(name)
            if not waiting[dependant]:
                heappush(ready, rank[dependant])
    return tuple(ordered)


def cycles(names: Sequence[str], needs: Mapping[str, Iterable[str]]) -> list[tuple[str, ...]]:
    """Find one shortest cycle, first name repeated at the end, for each knot of names that need one another."""
    reported: set[str] = set()
    found: list[tuple[str, ...]] = []
    ordered = set(topological(names, needs))
    for name in names:
        if name in ordered or name in reported:
            continue
        path = _way_back(name, needs)
        if path is not None:
            found.append(path)
            reported |= {other for other in _reach(name, needs) if name in _reach(other, needs)}
    return found


def _way_back(start: str, needs: Mapping[str, Iterable[str]]) -> tuple[str, ...] | None:
    came_from: dict[str, str] = {}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        for need in needs.get(here, ()):
            if need == start:
                path = [start, here]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return tuple(path if here == start else (start, *reversed(path[1:-1]), start))
            if need not in came_from:
                came_from[need] = here
                queue.append(need)
    return None


def _reach(start: str, needs: Mapping[str, Iterable[str]]) -> set[str]:
    seen: set[str] = set()
    stack = [start]
    while stack:
        for need in needs.get(stack.pop(), ()):
            if need not in seen:
                seen.add(need)
                stack.append(need)
    return seen


def downstream(starts: Iterable[str], needs: Mapping[str, Iterable[str]]) -> set[str]:
    """Return `starts` and every name that needs one of them, directly or not."""
    dependants: dict[str, list[str]] = {}
    for name, before in needs.items():
        for need in before:
            dependants.setdefault(need, []).append(name)
    found = set(starts)
    stack = list(found)
    while stack:
        new = [name for name in dependants.get(stack.pop(), ()) if name not in found]
        found.update(new)
        stack.extend(new)
    return found


def ancestors(ordered: Sequence[str], needs: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """Return per name everything that it needs, directly or not, as bits by position in `ordered` (topological)."""
    bit = {name: 1 << index for index, name in enumerate(ordered)}
    above: dict[str, int] = {}
    for name in ordered:
        mask = 0
        for need in needs.get(name, ()):
            mask |= bit[need] | above[need]
        above[name] = mask
    return above
