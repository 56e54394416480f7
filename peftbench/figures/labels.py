"""Labels beside points: where they hide neither each other nor points nor lines."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text

DISTANCES = (5, 8, 12, 18, 26, 36, 48)  # of labels from their points, in typographic points
DIAGONALS = [
    *itertools.product((0.7, -0.7), (0.7, -0.7)),
    *itertools.product((0.9, -0.9), (0.4, -0.4)),
]
DIRECTIONS = np.array([(1, 0), (-1, 0), (0, 1), (0, -1), *DIAGONALS])


def place_labels(
    axes: Axes,
    labels: Mapping[int, Text],
    points: np.ndarray,
    spreads: np.ndarray,
    front: Sequence[int],
) -> None:
    """Move labels, by their point's index, beside points (n, 2) whose bars reach `spreads` (n,) up
    and down, where they hide least: no other label, no point, no line. A thin line leads to a point
    that is far. front: the points that the panel's step line joins.

    The figure must have been drawn, so that positions are known.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    pixel = figure.dpi / 72  # of a typographic point
    places = axes.transData.transform(points)
    tops = axes.transData.transform(points + np.c_[np.zeros(len(points)), spreads])
    bars = np.c_[np.full(len(places), pixel), np.abs(tops - places)[:, 1]]
    obstacles = np.concatenate([_around(places, 4 * pixel), _around(places, bars)])
    lines = _line_boxes(places[list(front)], axes.bbox.x1, pixel)
    left, bottom, right, top = axes.bbox.extents
    room = np.array([[left + 3 * pixel, bottom + 3 * pixel, right, top]])
    sizes = {i: np.array(text.get_window_extent().size) for i, text in labels.items()}
    boxes: dict[int, np.ndarray] = {}
    for i in [*labels] * 4:  # again and again: a label gives way to those placed after it
        distances, candidates = _candidates(places[i], sizes[i], pixel)
        others = np.concatenate([obstacles, *([box] for j, box in boxes.items() if j != i)])
        hidden = overlaps(candidates, others).sum(1) + 0.3 * overlaps(candidates, lines).sum(1)
        inside = overlaps(candidates, room).sum(1)
        boxes[i] = candidates[np.argmin(hidden - 3 * inside + distances)]
    to_data = axes.transData.inverted().transform
    for i, text in labels.items():
        low, high = boxes[i][:2], boxes[i][2:]
        text.set_position(tuple(to_data(low)))
        end = np.clip(places[i], low, high)  # the box's nearest point
        if np.hypot(*(end - places[i])) > 6 * pixel:
            xs, ys = np.array([points[i], to_data(end)]).T
            look = {"color": text.get_color(), "linewidth": 0.5, "zorder": 1.5}
            axes.plot(xs, ys, scalex=False, scaley=False, **look)


# Boxes are rows of left, bottom, right, top, in pixels.


def overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The area that each of n boxes shares with each of m others: (n, m), in square pixels."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])  # (n, m, 2)
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])  # (n, m, 2)
    return np.clip(high - low, 0, None).prod(axis=2)


def _around(middles: np.ndarray, halves: np.ndarray | float) -> np.ndarray:
    return np.hstack([middles - halves, middles + halves])


def _candidates(place: np.ndarray, size: np.ndarray, point: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of a size around a place, nearest first: their distances (n,) and the boxes (n, 4)."""
    distances = np.repeat(DISTANCES, len(DIRECTIONS)) * point
    directions = np.tile(DIRECTIONS, (len(DISTANCES), 1))
    middles = place + distances[:, None] * directions + size / 2 * np.sign(directions)
    return distances, _around(middles, size / 2)


def _line_boxes(corners: np.ndarray, right: float, point: float) -> np.ndarray:
    """The front's step line as thin boxes, from its corners to the panel's right side."""
    boxes: list[tuple[float, float, float, float]] = []
    for (x0, y0), (x1, y1) in itertools.pairwise([*corners, (right, corners[-1][1])]):
        boxes.append((x0, y0 - point, x1, y0 + point))
        boxes.append((x1 - point, min(y0, y1), x1 + point, max(y0, y1)))
    return np.array(boxes)
