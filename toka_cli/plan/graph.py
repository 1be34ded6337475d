"""Order in a graph of nodes 0..n-1, where an edge says "waits for": circles, layers, longest chains.

Lists of indices come in, lists of indices go out. Every function is iterative (a chain of thousands of agents must not end the stack) and linear in
nodes and edges, but for `droppable_edges`, which has a bound on its work. It knows nothing of agents.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

Edges = Sequence[Sequence[int]]
"""`edges[node]` are the nodes that `node` waits for."""

SEARCH_BOUND: Final = 2_000_000
"""Steps that the search for circles of optional edges may take in one graph; 5,000 agents with ten optional edges each stay far below."""

MAX_CIRCLES: Final = 50
"""Circles named in one report; nobody repairs more at a time."""


def reversed_edges(edges: Edges) -> list[list[int]]:
    """Return for each node the nodes that wait for it, in ascending order."""
    result: list[list[int]] = [[] for _ in edges]
    for node, targets in enumerate(edges):
        for target in targets:
            result[target].append(node)
    return result


def circles(edges: Edges, order: Sequence[int]) -> list[tuple[int, ...]]:
    """Return circles as paths without the repeated end, each once, at most MAX_CIRCLES.

    Every circle of the graph has an edge in one of those returned; that holds because a depth-first walk over `order` finds an edge back to its own path
    in each circle. Edges from a node to itself count.
    """
    found: dict[tuple[int, ...], None] = {}
    depth = [-1] * len(edges)  # on the path now: its position; -2: done; -1: not seen
    for root in order:
        if depth[root] != -1:
            continue
        path, waiting = [root], [iter(edges[root])]
        depth[root] = 0
        while path:
            target = next(waiting[-1], None)
            if target is None:
                depth[path.pop()] = -2
                waiting.pop()
            elif depth[target] >= 0:
                found.setdefault(_rotated(path[depth[target] :]))
                if len(found) >= MAX_CIRCLES:
                    return list(found)
            elif depth[target] == -1:
                depth[target] = len(path)
                path.append(target)
                waiting.append(iter(edges[target]))
    return list(found)


def _rotated(circle: list[int]) -> tuple[int, ...]:
    first = circle.index(min(circle))
    return tuple(circle[first:] + circle[:first])


def layers(edges: Edges) -> list[int]:
    """Return each node's layer: 0 when it waits for nothing, else one more than the highest that it waits for. The graph has no circle."""
    return _longest(edges, reversed_edges(edges))


def chains(edges: Edges) -> list[int]:
    """Return for each node how many further nodes the longest chain of those waiting for it has. The graph has no circle."""
    return _longest(reversed_edges(edges), edges)


def _longest(before: Edges, after: Edges) -> list[int]:
    open_count = [len(targets) for targets in before]
    length = [0] * len(before)
    ready = deque(node for node, count in enumerate(open_count) if not count)
    while ready:
        node = ready.popleft()
        for other in after[node]:
            length[other] = max(length[other], length[node] + 1)
            open_count[other] -= 1
            if not open_count[other]:
                ready.append(other)
    return length


def longest_chain(edges: Edges, key: Callable[[int], tuple[int, str]]) -> list[int]:
    """Return the longest chain, first to run first; among equal ones that whose nodes have the smallest keys, compared from the start."""
    if not edges:
        return []
    remaining, dependants = chains(edges), reversed_edges(edges)
    node = min(range(len(edges)), key=lambda each: (-remaining[each], key(each)))
    chain = [node]
    while remaining[node]:
        node = min((each for each in dependants[node] if remaining[each] == remaining[node] - 1), key=key)
        chain.append(node)
    return chain


def droppable_edges(required: Edges, optional: Edges, rank: Sequence[int]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Return the optional edges to drop so that no circle is left: (node, target, path from target to node over kept edges).

    `required` alone has no circle. An edge is kept whenever it closes no circle with those already kept, so nothing is dropped without need; where there is
    a choice the node of the lower rank goes first. The path is empty for an edge dropped unexamined, after SEARCH_BOUND steps.
    """
    position = _order(required, optional, rank)
    kept: list[list[int]] = [list(targets) for targets in required]
    doubtful: list[tuple[int, int]] = []
    for node, targets in enumerate(optional):
        for target in targets:
            if position[target] < position[node]:
                kept[node].append(target)
            else:
                doubtful.append((node, target))
    dropped: list[tuple[int, int, tuple[int, ...]]] = []
    steps = SEARCH_BOUND
    for node, target in doubtful:
        if node == target:
            dropped.append((node, target, (node,)))
            continue
        path, steps = _path(kept, target, node, steps)
        if path is None:
            kept[node].append(target)
        else:
            dropped.append((node, target, path))
    return dropped


def _order(required: Edges, optional: Edges, rank: Sequence[int]) -> list[int]:
    """Return a position for each node that respects all required edges and, as far as it goes without search, the optional ones."""
    size = len(required)
    after_required, after_optional = reversed_edges(required), reversed_edges(optional)
    hard, soft = [len(targets) for targets in required], [len(targets) for targets in optional]
    free = [(rank[node], node) for node in range(size) if not hard[node] and not soft[node]]
    # Nodes held back by optional edges only: the best of them goes when nothing else can.
    held = [(rank[node], node) for node in range(size) if not hard[node] and soft[node]]
    heapq.heapify(free)
    heapq.heapify(held)
    position = [-1] * size
    count = 0
    while free or held:
        node = heapq.heappop(free or held)[1]
        if position[node] >= 0:
            continue
        position[node] = count
        count += 1
        for other in after_required[node]:
            hard[other] -= 1
            if not hard[other]:
                heapq.heappush(held if soft[other] else free, (rank[other], other))
        for other in after_optional[node]:
            soft[other] -= 1
            if not soft[other] and not hard[other] and position[other] < 0:
                heapq.heappush(free, (rank[other], other))
    return position


def _path(edges: Edges, start: int, goal: int, steps: int) -> tuple[tuple[int, ...] | None, int]:
    """Return the shortest path from start to goal (None: there is none; empty: the steps ran out) and the steps that are left."""
    came_from = {start: start}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for target in edges[node]:
            steps -= 1
            if steps <= 0:
                return (), 0
            if target in came_from:
                continue
            came_from[target] = node
            if target == goal:
                path = [target]
                while path[-1] != start:
                    path.append(came_from[path[-1]])
                return tuple(reversed(path)), steps
            queue.append(target)
    return None, steps
