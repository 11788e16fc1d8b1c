"""How long a page of arena_view takes to open in Chromium: a CT of 512 x 512 x 200 voxels with noise, which compresses no better than a real one.

    python -m benchmarks.page [-o FOLDER] [--shape X Y Z]

Printed: the page's size, seconds until its slices are seen, and CPU seconds of the page itself and of drawing, which a computer without a graphics
card (as here: --use-angle=swiftshader) does in software.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil

from arena_pipeline.stages.view import view
from arena_pipeline.workspace import Workspace
from tests.view.browser import Browser

SPACING_MM = (0.8, 0.8, 2.0, 1.0)
NOISE_HU = 12
DRAWN = "nv.gl.readPixels(0, 0, 1, 1, nv.gl.RGBA, nv.gl.UNSIGNED_BYTE, new Uint8Array(4))"  # returns when everything has been drawn
KINDS = {"--type=renderer": "the page", "--type=gpu-process": "drawing"}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    options.add_argument("-o", dest="output", type=Path, help="where the CT and its page go (default: a temporary folder)")
    options.add_argument("--shape", type=int, nargs=3, default=[512, 512, 200], metavar="N")
    args = options.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        folder = args.output or Path(scratch)
        _make(folder, tuple(args.shape))
        (page,) = view(folder / "out" / "body.nii.gz", Workspace(folder), images=folder / "body_0000.nii.gz").pages.values()
        megabytes = page.stat().st_size / 1e6
        with Browser(Path(scratch) / "profile", 1440, 900) as browser:
            before = _cpu_seconds(browser.process_id)
            seconds = browser.open(page.as_uri(), 600)
            browser.run(DRAWN)
            spent = {kind: used - before[kind] for kind, used in _cpu_seconds(browser.process_id).items()}
    parts = ", ".join(f"{kind} {used:.1f} s" for kind, used in spent.items())
    print(f"{'x'.join(map(str, args.shape))}: a page of {megabytes:.0f} MB opened in {seconds:.1f} s; CPU time: {parts}")


def _make(folder: Path, shape: tuple[int, ...]) -> None:
    """A body of two ellipses with noise, and a structure in it."""
    x, y = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    body, organ = x**2 / 0.8 + y**2 / 0.5 < 1, (x + 0.3) ** 2 / 0.1 + y**2 / 0.1 < 1
    plane = np.where(body, 40.0, -1000.0) + np.where(organ, 60.0, 0.0)
    rng = np.random.default_rng(0)
    hu = np.stack([np.clip(plane + rng.normal(0, NOISE_HU, plane.shape), -1024, 3071).astype(np.int16) for _ in range(shape[2])], axis=2)
    affine = np.diag(SPACING_MM)
    (folder / "out").mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hu, affine), folder / "body_0000.nii.gz")
    nib.save(nib.Nifti1Image(np.repeat(organ[:, :, None], shape[2], axis=2).astype(np.uint8), affine), folder / "out" / "body.nii.gz")


def _cpu_seconds(process_id: int) -> dict[str, float]:
    found = dict.fromkeys(KINDS.values(), 0.0)
    for process in psutil.Process(process_id).children(recursive=True):
        words = process.cmdline()
        for flag, kind in KINDS.items():
            if flag in words:
                found[kind] += sum(process.cpu_times()[:2])
    return found


if __name__ == "__main__":
    main()
