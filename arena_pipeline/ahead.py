"""The next item is made while the present one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def one_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items in the same order, each made by a thread while the one before is in use; an error comes where its item would.

    A consumer that stops early leaves one item made and unused.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="arena-ahead") as thread:
        made = thread.submit(next, items, end)
        while (item := made.result()) is not end:
            made = thread.submit(next, items, end)
            yield item  # type: ignore[misc]
