"""Every error that a user can cause, as a value: what was found, in which case and file, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class ArenaError(Exception):
    """Base of all errors that the commands print as one line, without a traceback.

    Its text is put together here and nowhere taken apart: `case: file: found; advice`, without those that are not given.

    Args:
        found: what was expected and what was found instead.
        case: identifier of the case it is about.
        file: the file that is at fault.
        advice: what to do, in the imperative.
    """

    def __init__(self, found: str, *, case: str | None = None, file: Path | str | None = None, advice: str | None = None) -> None:
        super().__init__(found)
        self.found, self.case, self.file, self.advice = found, case, file, advice

    def located(self, *, case: str | None = None, file: Path | str | None = None) -> ArenaError:
        """This error, with case and file added where it has none yet."""
        self.case, self.file = self.case or case, self.file or file
        return self

    @property
    def without_advice(self) -> str:
        """For a place where the advice would be wrong, such as a summary of many cases."""
        return ": ".join(str(part) for part in (self.case, self.file, self.found) if part is not None)

    def __str__(self) -> str:
        return self.without_advice if self.advice is None else f"{self.without_advice}; {self.advice}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Keyword arguments are lost in Exception's own pickling, and errors come back from worker processes."""
        return type(self)._rebuilt, (self.found, {"case": self.case, "file": self.file, "advice": self.advice})

    @classmethod
    def _rebuilt(cls, found: str, fields: dict[str, Any]) -> ArenaError:
        return cls(found, **fields)


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


class LossNotFinite(ArenaError):
    """The loss of an adaptation became NaN or infinite."""


class NotLearned(ArenaError):
    """An adaptation learned nothing, at its first rates and at lower ones."""


class NoTargetLayers(ArenaError):
    """A change to a network matched no layer."""


class MissingPackage(ArenaError):
    """A method needs a package of an extra that is not installed."""


class UnknownStructure(ArenaError):
    """A structure's name is not known here; the message lists those that are."""


class FolderInUse(ArenaError):
    """Another command is writing the folder that this one would write."""


class NoSpace(ArenaError):
    """A disk has too little free space, or a folder can't be written."""


class WorkerDied(ArenaError):
    """A worker process was ended from outside, or by a fault; the message names the case, the stage and the likely cause."""


class PackageError(ArenaError):
    """A model can't be exported, or a package is damaged, not one of ours, or does not belong here."""
