"""Examples of a stream, which come in any numbers, joined and cut into blocks of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .protocol import Examples, Group


def in_blocks(stream: Iterator[Examples], size: int) -> Iterator[Examples]:
    """Blocks of `size` examples, the last one shorter."""
    waiting, held = list[Examples](), 0
    for examples in stream:
        waiting.append(examples)
        held += examples.count
        while held >= size:
            whole = joined(waiting)
            yield part(whole, 0, size)
            waiting, held = [part(whole, size, held)], held - size
    if held:
        yield joined(waiting)


def joined(several: Sequence[Examples]) -> Examples:
    """Consecutive examples as one; those of one shape are one group."""
    if len(several) == 1:
        return several[0]
    starts = np.cumsum([0, *(each.count for each in several)]).tolist()
    groups: dict[tuple, list[Group]] = {}
    for start, each in zip(starts, several, strict=False):
        for group in each.groups:
            shapes = tuple((name, array.shape[1:]) for name, array in group.inputs.items())
            groups.setdefault(shapes, []).append(Group(group.places + start, group.inputs))
    carried = {name: np.concatenate([each.carried[name] for each in several]) for name in several[0].carried}
    failed = {
        start + place: why for start, each in zip(starts, several, strict=False) for place, why in each.failed.items()
    }
    return Examples(starts[-1], tuple(map(_one, groups.values())), carried, failed)


def _one(groups: Sequence[Group]) -> Group:
    inputs = {name: np.concatenate([each.inputs[name] for each in groups]) for name in groups[0].inputs}
    return Group(np.concatenate([each.places for each in groups]), inputs)


def part(examples: Examples, first: int, last: int) -> Examples:
    """Those from `first` to before `last`."""
    groups = []
    for group in examples.groups:
        low, high = np.searchsorted(group.places, [first, last])
        if high > low:
            inputs = {name: array[low:high] for name, array in group.inputs.items()}
            groups.append(Group(group.places[low:high] - first, inputs))
    carried = {name: array[first:last] for name, array in examples.carried.items()}
    failed = {place - first: why for place, why in examples.failed.items() if first <= place < last}
    return Examples(last - first, tuple(groups), carried, failed)
