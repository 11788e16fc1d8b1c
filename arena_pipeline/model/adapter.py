"""The adapter: what an adaptation trained and saved, and all that joins adaptation and prediction.

A fold folder holds adapter.safetensors and adapter.json. Tensors are named
    update.<layer>.<block>.<A|B|v>   the update of a block of rows without the entries where v = 0: A (k, columns), B (rows, k), v (k,), k >= 0;
                                     LoRA has no v. Blocks of an attention: key and value, or qkv (all rows)
    weight.<parameter>               a trained parameter of the network, as a whole: the head, the decoder, what else a method trains
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor

from arena_pipeline.errors import AdapterError
from arena_pipeline.foundations import Scheme
from arena_pipeline.io.atomic import replace_when_done, write_json
from arena_pipeline.io.json_files import read_model
from arena_pipeline.model.adapter_checks import MAX_BYTES, UPDATE, WEIGHT, file_faults
from arena_pipeline.model.attempts import Attempt
from arena_pipeline.model.tensor_files import UnfitTensors, read_tensors
from arena_pipeline.planning import InferencePlan
from arena_pipeline.settings import AdaptationSettings, Frozen
from arena_pipeline.workspace import ADAPTER_RECORD

TENSORS, RECORD = "adapter.safetensors", ADAPTER_RECORD


class AdapterRecord(Frozen):
    """adapter.json.

    Attributes:
        foundation, foundation_sha256: the network that the tensors belong to; another one is refused.
        plans_sha256: of the plans.json that was in force.
        scheme, inference: how to preprocess and predict, copied from those plans.
        task, structures, activation, kind, train_decoder, head, keep_largest: the task, as planned.
        dataset_labels: structure -> integer of the whole dataset, so that the tasks of one dataset share one numbering.
        fold, shots, support_ids: the support set; in a model that was exported, the names of its cases are left out: an empty `support_ids`.
        support_sha256: over their files; None in records of version 0.1.
        support_volumes_ml: structure -> its volume in each support case, on the preprocessed grid; empty in older records.
        effective_rank: "<layer>.<block of rows>" -> number of directions in use; empty for a method without low-rank updates.
        trained_parameters: while adapting; `saved_parameters`: in the file.
        epochs, stop_reason, final_loss, seconds: how the adaptation ended.
        attempts: every start of the adaptation, with its seed, rates and Dice on its own support set; the last is this adapter. () in older records.
        precision: that the network was adapted in; None in older records, where it was float32.
        peak_memory_mib: while adapting: of the tensors on a CUDA device, else of the process; None in records of version 0.1.
        versions: of the packages that matter. licence: of the foundation, which holds for what derives from it.
    """

    adapter_version: Literal[1] = 1
    dataset_name: str
    foundation: str
    foundation_sha256: str
    plans_sha256: str
    scheme: Scheme
    inference: InferencePlan
    task: str
    structures: dict[str, int]
    dataset_labels: dict[str, int]
    activation: Literal["sigmoid", "softmax"]
    kind: Literal["base", "novel"]
    train_decoder: bool
    head: Literal["pretrained", "new"]
    keep_largest: dict[str, bool]
    fold: int
    shots: int
    support_ids: tuple[str, ...]
    support_sha256: str | None = None
    support_volumes_ml: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    settings: AdaptationSettings
    effective_rank: dict[str, int]
    trained_parameters: int
    saved_parameters: int
    epochs: int
    stop_reason: str
    final_loss: float
    seconds: float
    attempts: tuple[Attempt, ...] = ()
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    peak_memory_mib: float | None = None
    versions: dict[str, str]
    licence: str

    @property
    def out_channels(self) -> int:
        return len(self.structures) + 1 if self.activation == "softmax" else 1


@dataclass(frozen=True, eq=False)
class Adapter:
    """adapter.json and adapter.safetensors, read or about to be written."""

    record: AdapterRecord
    tensors: dict[str, Tensor]

    def updates(self) -> dict[str, dict[str, Tensor]]:
        """Layer name -> {"key.A": ..., "key.B": ..., "key.v": ..., "value.A": ..., ...} or {"qkv.A": ..., "qkv.B": ...}."""
        grouped: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            if name.startswith(UPDATE):
                layer, projection, part = name[len(UPDATE) :].rsplit(".", 2)
                grouped.setdefault(layer, {})[f"{projection}.{part}"] = tensor
        return grouped

    def weights(self) -> dict[str, Tensor]:
        """Parameter name of the network -> its trained value."""
        return {name[len(WEIGHT) :]: tensor for name, tensor in self.tensors.items() if name.startswith(WEIGHT)}


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Writes both files; the record last, so that its presence means the adapter is whole."""
    discard_adapter(folder)
    with replace_when_done(folder / TENSORS) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in adapter.tensors.items()}, temporary)
    write_json(folder / RECORD, adapter.record.model_dump(mode="json"))


def discard_adapter(folder: Path) -> None:
    """Removes the record of an adapter that may be there, without which it does not count; the next one overwrites its tensors."""
    (folder / RECORD).unlink(missing_ok=True)


def read_adapter_record(folder: Path) -> AdapterRecord:
    """Raises AdapterError where adapter.json is missing or is not one."""
    path = folder / RECORD
    missing = f"no {RECORD}; this fold is not adapted to its end, run arena_adapt again"
    return read_model(path, AdapterRecord, AdapterError, missing, "run arena_adapt for this fold again")


def read_adapter(folder: Path) -> Adapter:
    """Raises AdapterError naming the file, for a damaged file, tensors that no adapter of this record has, or values that are not finite."""
    record = read_adapter_record(folder)
    path = folder / TENSORS
    try:
        return Adapter(record, read_tensors(path, MAX_BYTES, lambda facts: file_faults(facts, record.effective_rank)))
    except (OSError, UnfitTensors) as error:
        raise AdapterError(f"not a readable adapter ({error})", file=path, advice="run arena_adapt for this fold again") from None
