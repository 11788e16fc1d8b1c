"""What dataset.json may have under `labels`: names that can be folders everywhere, whole numbers, and nnU-Net's special entries in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

BACKGROUND = "background"
IGNORE = "ignore"
"""nnU-Net's name for voxels that nobody annotated: they have the highest integer, and are no structure."""

LONGEST_NAME_BYTES = 150  # a file's name may have 255, and results/ puts more around a structure's
NOT_IN_WINDOWS = '<>:"|?*'
DEVICES_OF_WINDOWS = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}


def structure_names_fault(names: Iterable[str]) -> str | None:
    """What is wrong with names that folders can't have, here or where a model may be taken to (results/.../STRUCTURE/fold_0); None if nothing is."""
    names = list(names)
    if wrong := [name for name in names if not name or name.startswith(".") or not name.isprintable() or "/" in name or "\\" in name]:
        return f"{', '.join(map(repr, wrong))} can't name a structure's folder; leave out /, \\, dots in front and line breaks"
    if long := [name for name in names if len(name.encode()) > LONGEST_NAME_BYTES]:
        return f"{long[0][:40]}... has {len(long[0].encode())} bytes, a name may have {LONGEST_NAME_BYTES}; shorten it"
    if wrong := [name for name in names if not _fits_windows(name)]:
        return (
            f"{', '.join(map(repr, wrong))} can't be a folder in Windows; leave out {NOT_IN_WINDOWS}, dots and spaces at the end, and names "
            "of devices such as con or aux"
        )
    count = Counter(name.casefold() for name in names)
    if same := [name for name in names if count[name.casefold()] > 1]:
        return f"{', '.join(same)} differ only in upper and lower case, one folder in Windows and macOS; rename one"
    return None


def check_structure_names(names: Iterable[str]) -> None:
    """Raises ValueError with what `structure_names_fault` finds."""
    if (fault := structure_names_fault(names)) is not None:
        raise ValueError(f"labels: {fault}")


def check_labels(labels: Mapping[str, int]) -> None:
    """Raises ValueError unless background is 0, all others follow it without a gap, and `ignore`, if there, is the highest."""
    if labels.get(BACKGROUND) != 0:
        raise ValueError("labels: expected 'background': 0")
    count = Counter(labels.values())
    if names := [name for name, label in labels.items() if count[label] > 1]:
        shared = sorted({labels[name] for name in names})
        raise ValueError(f"labels: {', '.join(names)} share the integer {', '.join(map(str, shared))}; give each its own")
    if sorted(labels.values()) != list(range(len(labels))):
        raise ValueError(f"labels: expected consecutive integers 0..{len(labels) - 1}, found {sorted(labels.values())}")
    if IGNORE in labels and labels[IGNORE] != len(labels) - 1:
        highest = len(labels) - 1
        raise ValueError(f"labels: {IGNORE} is {labels[IGNORE]}; nnU-Net's label of voxels without annotation has the highest integer, {highest}")
    check_structure_names(labels)


def refuse_other_forms(labels: object) -> None:
    """Raises ValueError, saying what to write, for the forms that people and other programs give `labels`."""
    if not isinstance(labels, dict):
        return
    if labels and all(str(key).isdecimal() and isinstance(value, str) for key, value in labels.items()):
        turned = ", ".join(f'"{name}": {key}' for key, name in labels.items())
        raise ValueError(f"number -> name, expected name -> number; write {{{turned}}}")
    if regions := [name for name, value in labels.items() if isinstance(value, list)]:
        mend = f"give every structure one integer{_without_regions(labels)}"
        raise ValueError(f"{', '.join(regions)}: regions of nnU-Net (lists of labels) are not supported; {mend}")


def _without_regions(labels: dict[str, object]) -> str:
    """The same integers, each under the name of the smallest region that holds it: regions are then sums of structures."""
    regions = {name: value if isinstance(value, list) else [value] for name, value in labels.items()}
    if not all(isinstance(label, int) for held in regions.values() for label in held):
        return ""
    smallest = {label: min((len(held), name) for name, held in regions.items() if label in held)[1] for held in regions.values() for label in held}
    if len(set(smallest.values())) < len(smallest):
        return ""  # two integers of one region: only a person can name them
    written = ", ".join(f'"{name}": {label}' for label, name in sorted(smallest.items()))
    return f": write {{{written}}}, where a name means its region without the smaller ones in it; add those up after predicting"


def _fits_windows(name: str) -> bool:
    return not set(name) & set(NOT_IN_WINDOWS) and name[-1] not in ". " and name.split(".")[0].casefold() not in DEVICES_OF_WINDOWS
