"""Reading and writing JSON files as validated models; every fault is described in words."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from arena_pipeline.errors import ArenaError
from arena_pipeline.io.atomic import write_json
from arena_pipeline.settings import Frozen
from arena_pipeline.words import listed, similar

LARGEST_FILE_BYTES = 64 * 2**20  # a fingerprint of 1,200 cases and 104 structures has about 5 MiB
SHOWN_FAULTS = 5
SHOWN_CHARACTERS = 80

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)
Stored = TypeVar("Stored", bound="StoredModel")


class StoredModel(Frozen):
    """A model with a file of its own."""

    def write(self, path: Path) -> None:
        """Writes the file, whole or not at all."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read_if_valid(cls: type[Stored], path: Path) -> Stored | None:
        """What the file says; None where it is missing or not one of these."""
        try:
            return read_model(path, cls, ArenaError, "no such file", "delete it")
        except ArenaError as error:
            logger.debug("%s", error)
            return None


def read_model(path: Path, model: type[Model], error: type[ArenaError], missing: str, mend: str) -> Model:
    """The validated content of a JSON file (UTF-8, with a byte order mark or without).

    Args:
        error: what to raise.
        missing: what to say where there is no such file, and what to do.
        mend: what to do about a faulty file.

    Raises:
        ArenaError: of the type `error`, naming the file: it is missing, too large, no JSON, or says a key twice; or it names each key that is
            missing, unknown or has an impossible value, with what was found.
    """
    try:
        content = _read_json(path)
    except FileNotFoundError:
        raise error(missing, file=path) from None
    except (OSError, ValueError, RecursionError) as fault:  # a ValueError: not UTF-8, not JSON, an integer of thousands of digits, a key twice
        reason = fault.strerror if isinstance(fault, OSError) and fault.strerror else fault
        raise error(f"not a readable JSON file ({reason})", file=path, advice=mend) from None
    try:
        return model.model_validate(content)
    except ValidationError as faults:
        found = listed((_fault(entry, content) for entry in faults.errors(include_url=False)), SHOWN_FAULTS, "; ")
        raise error(found, file=path, advice=mend) from None


def differences(old: Any, new: Any, path: str = "") -> dict[str, tuple[Any, Any]]:
    """Path of each value that differs -> the old and the new one. Lists of objects with names are compared by name."""
    old, new = _by_name(old), _by_name(new)
    if isinstance(old, dict) and isinstance(new, dict):
        inside = (differences(old.get(key), new.get(key), f"{path}.{key}" if path else key) for key in dict.fromkeys((*new, *old)))
        return {key: values for found in inside for key, values in found.items()}
    return {} if old == new else {path: (old, new)}


def _by_name(value: Any) -> Any:
    if isinstance(value, list) and value and all(isinstance(entry, dict) and "name" in entry for entry in value):
        return {entry["name"]: entry for entry in value}
    return value


def _read_json(path: Path) -> Any:
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError("not a file")  # reading a pipe could wait for ever
    if size > LARGEST_FILE_BYTES:
        raise ValueError(f"{size:,} bytes, expected at most {LARGEST_FILE_BYTES:,}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("its text is not in UTF-8; save it as UTF-8") from None
    content = json.loads(text, object_pairs_hook=_unique_keys)
    if "\\ud" in text.lower():  # half of a surrogate pair, which can't be written to a file
        json.dumps(content, ensure_ascii=False).encode()
    return content


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's reader keeps the last of equal keys in silence, so that a structure listed twice would be lost."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return content


def _fault(entry: Any, content: Any) -> str:
    """One of pydantic's errors: which key, what was expected, what was found."""
    key = ".".join(map(str, entry["loc"]))
    if entry["type"] == "value_error":
        return f"{key}: {entry['ctx']['error']}" if key else str(entry["ctx"]["error"])
    if not key:
        return f"expected an object, {{...}}, found {type(content).__name__}"
    if entry["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if entry["type"] == "missing":
        meant = similar(key, content) if isinstance(content, dict) else None
        return f"{key}: missing key" + (f", is {meant} meant to be it?" if meant else "")
    found = repr(entry["input"])
    return f"{key}: {entry['msg']}, found {found[:SHOWN_CHARACTERS]}{'...' if len(found) > SHOWN_CHARACTERS else ''}"
