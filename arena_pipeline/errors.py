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


class MissingPackage(ArenaError):
    """A method needs a package of an extra that is not installed."""


class UnknownStructure(ArenaError):
    """A structure's name is not known here; the message lists those that are."""


class FolderInUse(ArenaError):
    """Another command is writing the folder that this one would write."""


class NoSpace(ArenaError):
    """A disk has not the bytes that are needed, or a folder can't be written."""


class WorkerDied(ArenaError):
    """A worker process was ended from outside, or by a fault; the message names the case, the stage and the likely cause."""


class PackageError(ArenaError):
    """A model can't be exported, or a package is damaged, not one of ours, or does not belong here."""
