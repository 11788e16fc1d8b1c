"""What the tests of the pages share: a browser, and a folder as arena_predict leaves it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from arena_pipeline.io.images import read_image
from arena_pipeline.predict.inputs import record_inputs
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.predict.outputs import case_files
from arena_pipeline.predict.review import review_case, write_review
from tests.view.browser import CHROMIUM, Browser

LABELS = {"liver": 1, "spleen": 2}
TURNED = np.array([[-2.0, 0, 0, 40], [0, 0, 3, -7], [0, -1.5, 0, 12], [0, 0, 0, 1]])  # axes left, inferior, anterior
SHAPE = (20, 18, 12)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium on this computer (apt-get install chromium)")
    with Browser(tmp_path_factory.mktemp("profile"), width=900, height=620) as opened:
        yield opened


@pytest.fixture
def predicted(tmp_path: Path, write_nifti: Callable[..., Path], rng: np.random.Generator) -> Path:
    """What arena_predict leaves of the cases `a` and `b c`, whose CTs lie in in/; no spleen was found in a, the folds disagree on that of b c."""
    folder = tmp_path / "out"
    lines = []
    for name in ("a", "b c"):
        hu = rng.integers(-150, 230, SHAPE).astype(np.int16)
        segmentation = np.zeros(SHAPE, np.uint8)
        segmentation[3:9, 4:12, 2:7] = 1
        if name != "a":
            segmentation[12:16, 4:8, 6:9] = 2
            write_nifti(case_files(folder, name).disagreement, (segmentation == 2).astype(np.float32) / 3, TURNED)
        ct = write_nifti(tmp_path / "in" / f"{name}_0000.nii.gz", hu, TURNED)
        write_nifti(folder / f"{name}.nii.gz", segmentation, TURNED)
        lines += review_case(name, read_image(ct), segmentation, LABELS, {}, {}, {})
    LabelMap.of(LABELS, {"model": "/home/erika/results/Dataset901_Tiny/arena_mini/arena_3shots", "foundation": "arena_mini"}).write(folder)
    write_review(folder / "review.csv", lines)
    record_inputs(folder, ["a", "b c"], tmp_path / "in")
    return folder
