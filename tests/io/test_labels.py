"""Boxes around labels, whatever the order in memory."""

from __future__ import annotations

import numpy as np
import pytest

from arena_pipeline.io.labels import label_boxes


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_boxes_are_the_same_in_every_order_of_memory(order: tuple[int, ...]) -> None:
    array = np.zeros((7, 8, 9), np.uint16)
    array[1:3, 2:5, 3] = 2
    array[6, 7, 8] = 300
    stored = np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
    assert label_boxes(stored) == {2: (slice(1, 3), slice(2, 5), slice(3, 4)), 300: (slice(6, 7), slice(7, 8), slice(8, 9))}
    assert label_boxes(stored > 2) == {1: (slice(6, 7), slice(7, 8), slice(8, 9))}
    assert label_boxes(np.zeros((3, 3, 3), np.uint8)) == {}
