"""Every error that a user can cause. Each message says the case, the file, what was expected, what was found and what to do."""

from __future__ import annotations


class ArenaError(Exception):
    """Base of all errors that the commands print as one line, without a traceback."""


class DatasetError(ArenaError):
    """A raw dataset, its dataset.json or one of its cases is not as the standard layout wants it."""


class ImageError(ArenaError):
    """An image file can't be read, or its geometry makes no sense."""


class SupportSetError(ArenaError):
    """The asked-for support set can't be drawn from the cases there are."""


class PlansError(ArenaError):
    """Plans, a fingerprint or a foundation preset is missing, invalid or belongs to something else."""


class FoundationError(ArenaError):
    """A foundation is unknown, not installed, or its weights do not fit its preset."""


class AdapterError(ArenaError):
    """An adapter is missing, damaged, or was made for another foundation."""


class NoTargetLayers(ArenaError):
    """A change to a network matched no layer."""


class UnknownStructure(ArenaError):
    """A structure's name is not known here; the message lists those that are."""
