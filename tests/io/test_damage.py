"""Pictures and archives of an earlier run: whole ones are taken, and no byte may be wrong that matters."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread, imsave

from arena_pipeline.io.damage import damage


def flipped(content: bytes) -> Iterator[tuple[int, bytes]]:
    for place in range(len(content)):
        yield place, content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def test_a_picture(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.png"
    imsave(path, rng.random((9, 9)))
    assert damage(path) is None
    content, picture = path.read_bytes(), imread(path)
    cut = ((length, content[:length]) for length in range(0, len(content), 7))
    for place, wrong in itertools.chain(flipped(content), cut):
        path.write_bytes(wrong)
        if damage(path) is None:  # of the end mark: nothing of the picture is wrong
            assert np.array_equal(imread(path), picture), place
    path.unlink()
    assert damage(path) is not None


def test_an_archive(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.npz"
    arrays = {"one": rng.random(20), "two": np.arange(9)}
    np.savez_compressed(path, **arrays)
    assert damage(path) is None
    content = path.read_bytes()
    for place, wrong in flipped(content):
        path.write_bytes(wrong)
        if damage(path) is None:  # a byte without meaning, such as one of the time of writing
            with np.load(path, allow_pickle=False) as read:
                assert all(np.array_equal(read[name], array) for name, array in arrays.items()), place
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert damage(path) is not None, length


@pytest.mark.parametrize("change", [lambda content: content[:-20], lambda content: content[:50] + b"\xff" * 50 + content[100:]])
def test_a_gzip_that_was_cut_or_overwritten_is_seen(change: Callable[[bytes], bytes], tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.nii.gz"
    path.write_bytes(gzip.compress(rng.integers(0, 9, 5000).tobytes()))
    assert damage(path) is None
    path.write_bytes(change(path.read_bytes()))
    assert str(damage(path)).startswith("a.nii.gz: ")
