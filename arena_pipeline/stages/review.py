"""arena_review: the pages of arena_view from a server of this computer, with a pen; corrections become training cases."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from arena_pipeline.arguments import plain_arguments
from arena_pipeline.view.reviewing import Review
from arena_pipeline.view.server import ReviewServer
from arena_pipeline.workspace import Workspace


@contextmanager
@plain_arguments
def review(path: str | Path, dataset_id: int, workspace: Workspace, *, images: str | Path | None = None, port: int = 0) -> Iterator[ReviewServer]:
    """A server that listens, for a `with`; call its `serve_forever`.

    Args:
        path: a folder that arena_predict wrote.
        dataset_id: the raw dataset that corrections go to.
        images: where the CTs are; None: where they were when they were predicted.
        port: 0 for any that is free.

    Raises:
        ArenaError: no such dataset, no prediction whose CT is found, a dataset that can't be written.
    """
    server = ReviewServer(Review(Path(path), workspace, workspace.dataset_name(dataset_id), None if images is None else Path(images)), port)
    try:
        yield server
    finally:
        with server.lock:  # waits for a correction that is being saved
            server.server_close()
