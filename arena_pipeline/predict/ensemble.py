"""Several predictions of one case into one: the mean of their probabilities, channel by channel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from arena_pipeline.errors import ImageError
from arena_pipeline.io.label_names import BACKGROUND
from arena_pipeline.predict.probabilities import Description, ProbabilityFile


def ensemble_segmentation(case: str, files: Sequence[ProbabilityFile]) -> np.ndarray:
    """The segmentation of the mean probabilities of `files`, (x, y, z) uint8 or uint16 on their (native) grid.

    A softmax takes the argmax over all channels, sigmoid tasks the highest above the threshold; ties go to the lowest
    label. In memory at once: two maps of probabilities, whatever the number of structures and files.

    Raises:
        ImageError: the files have other structures, integers or shapes than the first one.
    """
    description = _common_description(case, files)
    best: np.ndarray | None = None
    segmentation: np.ndarray | None = None
    for label, channel in _channels(description, files[0].channels):
        mean = _mean(case, files, channel)
        if best is None or segmentation is None:
            best = mean if label == 0 else np.full_like(mean, description.threshold)
            segmentation = np.zeros(mean.shape, dtype=np.uint16 if max(description.labels.values()) > 255 else np.uint8, order="F")
        if label != 0:
            wins = mean > best
            np.copyto(best, mean, where=wins)
            segmentation[wins] = max(label, 0)
    if segmentation is None:
        raise ImageError(f"{files[0].path} has no channels", case=case, advice="predict this case again with --save_probabilities")
    return segmentation


def _channels(description: Description, stored: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(label, channel): the background first as 0, the structures by ascending label, then those that only compete, as -1."""
    if description.activation == "softmax":
        yield 0, BACKGROUND
    for name, label in sorted(description.labels.items(), key=lambda item: item[1]):
        yield label, name
    for name in stored:
        if name != BACKGROUND and name not in description.labels:
            yield -1, name


def _mean(case: str, files: Sequence[ProbabilityFile], channel: str) -> np.ndarray:
    """The voxelwise mean of a channel, float32; at most two maps are held."""
    total = files[0].read(channel)
    for file in files[1:]:
        probabilities = file.read(channel)
        if probabilities.shape != total.shape:
            found = f"{probabilities.shape} in {file.path} vs {total.shape} in {files[0].path}"
            raise ImageError(f"{channel} differs in shape: {found}", case=case, advice="predict both from the same CT")
        total += probabilities
    total /= len(files)
    return total


def _common_description(case: str, files: Sequence[ProbabilityFile]) -> Description:
    first = files[0]
    for other in files[1:]:
        if other.description != first.description or set(other.channels) != set(first.channels):
            raise ImageError(
                f"{other.path} and {first.path} can't be averaged: {other.description.activation} of {other.description.labels} vs "
                f"{first.description.activation} of {first.description.labels}",
                case=case,
                advice="ensemble predictions of the same structures and integers",
            )
    return first.description
