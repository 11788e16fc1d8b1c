"""arena_review."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from arena_pipeline.cli import common

DESCRIPTION = """Shows predictions in a browser with a pen. What you accept or correct becomes a training case of the dataset.

    arena_review -d 101 out/        what arena_predict -o out/ wrote; ends with Ctrl-C

The pages come from this computer alone (127.0.0.1), under an address that nobody can guess. A case is copied, CT and label, into imagesTr
and labelsTr of raw/Dataset101_NAME; what it replaces is kept in replaced/. The page shows the command that adapts again."""


def main(argv: list[str] | None = None) -> int:
    options = common.parser(DESCRIPTION)
    options.add_argument("path", type=Path, metavar="OUT", help="folder that arena_predict wrote")
    common.add_dataset(options, "dataset that corrections go to, e.g. 101 or Dataset101_NAME")
    text = "the CTs, where they have been moved since they were predicted"
    options.add_argument("-i", dest="images", type=Path, metavar="CTS", help=text)
    options.add_argument("--port", type=common.whole_number, default=0, metavar="N", help="port of the server; 0: any that is free")
    options.add_argument("--no_browser", action="store_true", help="only print the address")
    return common.run(_review, options.parse_args(argv), "arena_review")


def _review(args: argparse.Namespace) -> None:
    common.check_first(args.workspace, [args.dataset_id])
    from arena_pipeline.stages.review import review  # heavy imports: not for -h

    with review(**common.keywords(args, "no_browser")) as server:
        print(f"{server.address}\nopen it in a browser of this computer; Ctrl-C ends it", flush=True)
        if not args.no_browser:
            webbrowser.open(server.address)
        server.serve_forever()
