"""Files changed at random: an error of ours or a correct read, never another exception, a crash, a hang, or memory on a header's word.

The same examples in every run. To look for more: ARENA_FUZZ_EXAMPLES=20000 pytest tests/io/test_fuzz.py
"""

from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from arena_pipeline.errors import ArenaError
from arena_pipeline.fingerprint import Fingerprint, measure_dataset
from arena_pipeline.fingerprint.audit import DatasetAudit, audit_dataset
from arena_pipeline.foundations import load_preset
from arena_pipeline.io.atomic import write_json
from arena_pipeline.io.dataset import DatasetJson, RawDataset
from arena_pipeline.io.images import read_geometry, read_image, read_segmentation
from arena_pipeline.machine import Machine
from arena_pipeline.model.adapter import TENSORS, Adapter, AdapterRecord, read_adapter, read_adapter_record, write_adapter
from arena_pipeline.planning import Plans, make_plans
from arena_pipeline.predict.labels import LabelMap
from arena_pipeline.preprocess.dataset import preprocess_dataset
from arena_pipeline.preprocess.store import CaseRecord, read_case_record
from arena_pipeline.workspace import Workspace

LONG = int(os.environ.get("ARENA_FUZZ_EXAMPLES", "0"))
MEMORY_BYTES = 64 * 2**20
SHAPE = (7, 6, 5)
HEADER = nib.Nifti1Header.template_dtype

fuzz = settings(
    max_examples=LONG or 150,
    derandomize=not LONG,
    database=None,
    deadline=timedelta(seconds=20),  # a hang, not a busy machine
    suppress_health_check=list(HealthCheck),
)


@st.composite
def damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """One to four flips, cuts, insertions, or runs of bytes written over."""
    changes = draw(st.lists(st.tuples(st.sampled_from("fcio"), st.integers(0, 2**20), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4))

    def change(content: bytes) -> bytes:
        for kind, place, new in changes:
            at = place % (len(content) + 1)
            if kind == "f":
                content = content[:at] + bytes(byte ^ mask for byte, mask in zip(content[at : at + 1], new[:1], strict=False)) + content[at + 1 :]
            elif kind == "c":
                content = content[:at]
            elif kind == "i":
                content = content[:at] + new + content[at:]
            else:
                content = content[:at] + new + content[at + len(new) :]
        return content

    return change


@st.composite
def header_damage(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Some fields of a NIfTI-1 header filled with likely bad numbers or with anything."""
    fields = draw(st.lists(st.sampled_from([name for name in HEADER.names if name != "sizeof_hdr"]), min_size=1, max_size=3))
    bad = st.sampled_from([0, -1, 1, 2, 3, 4, 7, 8, 255, 32767, -32768, 1e-30, 1e30, 3e38, float("nan"), float("inf"), -float("inf")])
    values = [draw(bad) for _ in fields]
    places = [draw(st.integers(0, 7)) for _ in fields]

    def change(content: bytes) -> bytes:
        header = np.frombuffer(content[: HEADER.itemsize], HEADER).copy()
        with np.errstate(all="ignore"):
            for name, value, place in zip(fields, values, places, strict=True):
                entries = header[name].reshape(-1)
                if entries.dtype.kind == "S":
                    entries[:] = bytes([int(place)])
                elif entries.dtype.kind == "f" or (np.isfinite(value) and abs(value) < 2**15):
                    entries[place % len(entries)] = np.asarray(value).astype(entries.dtype)
        return header.tobytes() + content[HEADER.itemsize :]

    return change


@pytest.fixture(scope="module")
def nifti() -> bytes:
    array = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
    image = nib.Nifti1Image(array, np.diag([0.8, 0.9, 2.5, 1]))
    image.set_qform(image.affine, code=1)
    return bytes(image.to_bytes())


def read_all(path: Path) -> None:
    """Every reader of images: an ArenaError, or a volume that is what its header says."""
    for read in (read_image, read_segmentation, read_geometry):
        tracemalloc.start()
        try:
            result = read(path)
            if read is not read_geometry:
                assert result.array.shape == result.geometry.shape
                assert result.array.nbytes < 16 * max(1, path.stat().st_size) * 1032
                assert result.array.dtype.kind in "iuf" and np.isfinite(result.array).all()
                assert np.isfinite(result.geometry.affine).all()
        except ArenaError as error:
            assert path.name in str(error)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < MEMORY_BYTES


@fuzz
@given(change=st.one_of(damage(), header_damage()))
def test_a_nifti_file(nifti: bytes, tmp_path_factory: pytest.TempPathFactory, change: Callable[[bytes], bytes]) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.nii"
    path.write_bytes(change(nifti))
    read_all(path)


@fuzz
@given(inner=st.one_of(st.just(bytes), damage(), header_damage()), outer=st.one_of(st.just(bytes), damage()))
def test_a_compressed_nifti_file(
    nifti: bytes, tmp_path_factory: pytest.TempPathFactory, inner: Callable[[bytes], bytes], outer: Callable[[bytes], bytes]
) -> None:
    path = tmp_path_factory.getbasetemp() / "packed.nii.gz"
    path.write_bytes(outer(gzip.compress(inner(nifti), 1, mtime=0)))
    read_all(path)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One valid file of every kind, made by the program."""
    workspace = Workspace(tmp_path_factory.mktemp("documents"))
    folder = workspace.raw / "Dataset901_Tiny"
    for part, name in (("imagesTr", "a_0000"), ("labelsTr", "a")):
        (folder / part).mkdir(parents=True)
        array = np.zeros((16, 16, 16), np.int16)
        array[4:12, 4:12, 4:12] = 1
        nib.save(nib.Nifti1Image(array if part == "labelsTr" else array * 500 - 400, np.eye(4) * [3, 3, 3, 1]), folder / part / f"{name}.nii.gz")
    description = DatasetJson(
        channel_names={"0": "CT"}, labels={"background": 0, "liver": 1}, numTraining=1, file_ending=".nii.gz", split={"liver": {"train": ("a",)}}
    )  # type: ignore[arg-type]
    description.write(folder / "dataset.json")
    raw, preset = RawDataset.open(folder), load_preset("arena_mini")
    fingerprint = measure_dataset(raw, preset, workers=0)
    fingerprint.write(folder / "fingerprint.json")
    plans = make_plans(fingerprint, preset, "0" * 64, description, Machine(2**34, None, 2))
    plans.write(folder / "plans.json")
    audit_dataset(folder, workers=0).write(folder / "audit.json")
    preprocess_dataset(raw, preset.scheme, folder / "cases", workers=0)
    LabelMap.of({"liver": 1}, {"model": "x"}).write(folder)
    (folder / "adapter.json").write_text(_record(plans).model_dump_json())
    return {
        "dataset.json": folder / "dataset.json",
        "plans.json": folder / "plans.json",
        "fingerprint.json": folder / "fingerprint.json",
        "audit.json": folder / "audit.json",
        "labels.json": folder / "labels.json",
        "adapter.json": folder / "adapter.json",
        "a.json": folder / "cases" / "a.json",
    }


def _record(plans: Plans) -> AdapterRecord:
    task = plans.tasks[0]
    return AdapterRecord(
        dataset_name=plans.dataset_name, foundation=plans.foundation, foundation_sha256="0", plans_sha256="0", scheme=plans.scheme,
        inference=plans.inference, task=task.name, structures=task.structures, dataset_labels=plans.labels, activation=task.activation,
        kind=task.kind, train_decoder=False, head=task.head, keep_largest=task.keep_largest, fold=0, shots=1, support_ids=("a",),
        settings=plans.adaptation, effective_rank={"layers1.0.attn.key": 3}, trained_parameters=1, saved_parameters=1, epochs=1,
        stop_reason="", final_loss=0.5, seconds=1.0, versions={}, licence="CC0",
    )  # fmt: skip


def _case(path: Path) -> CaseRecord | None:
    return read_case_record(path.parent, "a")


READERS: dict[str, tuple[str, Callable[[Path], BaseModel | None]]] = {
    "dataset.json": ("dataset.json", DatasetJson.read),
    "plans.json": ("plans.json", Plans.read),
    "fingerprint.json": ("fingerprint.json", Fingerprint.read),
    "audit.json": ("audit.json", DatasetAudit.read),
    "labels.json": ("labels.json", lambda path: LabelMap.read(path.parent)),
    "adapter.json": ("adapter.json", lambda path: read_adapter_record(path.parent)),
    "a.json": ("a.json", _case),
}
ODD = [
    None, True, 0, -1, 2**31, 2**63, 10**30, -0.5, 1e300, float("nan"), float("inf"), "", "x", "0", "../x", "a\0b", "\ud800", "1e400", [], [[]], {},
    {"x": 1}, ["a", 1], "liver",
]  # fmt: skip


@st.composite
def replaced(draw: st.DrawFn) -> Callable[[Any], Any]:
    """Some value anywhere in a document replaced, removed, or put under another key."""
    path = draw(st.lists(st.integers(0, 30), min_size=1, max_size=5))
    value, kind = draw(st.sampled_from(ODD)), draw(st.sampled_from(["replace", "remove", "rename"]))

    def change(document: Any) -> Any:
        document = json.loads(json.dumps(document))
        place = document
        for step in path[:-1]:
            inner = list(place.values()) if isinstance(place, dict) else place
            deeper = [entry for entry in inner if isinstance(entry, (dict, list)) and entry]
            if not deeper:
                break
            place = deeper[step % len(deeper)]
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[path[-1] % len(keys)]
        if kind == "replace":
            place[key] = value
        else:
            old = place.pop(key)
            if kind == "rename" and isinstance(place, dict):
                place[str(value)] = old
        return document

    return change


@pytest.mark.parametrize("name", READERS)
def test_a_json_file(documents: dict[str, Path], name: str) -> None:
    whole = documents[name].read_bytes()
    _, read = READERS[name]
    original = read(documents[name])
    assert original is not None

    @fuzz
    @given(change=st.one_of(damage().map(lambda d: ("bytes", d)), replaced().map(lambda d: ("value", d))))
    def run(change: tuple[str, Callable[[Any], Any]]) -> None:
        kind, function = change
        changed = function(whole) if kind == "bytes" else json.dumps(function(json.loads(whole))).encode()
        documents[name].write_bytes(changed)
        try:
            result = read(documents[name])
        except ArenaError as error:
            assert name in str(error)
            str(error).encode("utf-8", "backslashreplace")
        else:
            if result is not None:  # what was taken can be written, and says the same when it is read again
                write_json(documents[name], result.model_dump(mode="json"))
                again = read(documents[name])
                assert again is not None and again.model_dump() == result.model_dump()

    try:
        run()
    finally:
        documents[name].write_bytes(whole)


@fuzz
@given(change=damage())
def test_the_tensors_of_an_adapter(documents: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, change: Callable[[bytes], bytes]) -> None:
    folder = tmp_path_factory.getbasetemp() / "adapter"
    name = "update.layers1.0.attn.key"
    tensors = {f"{name}.A": torch.ones(3, 8), f"{name}.B": torch.ones(8, 3), f"{name}.v": torch.ones(3), "weight.out.bias": torch.zeros(1)}
    if not (folder / TENSORS).exists():
        write_adapter(folder, Adapter(read_adapter_record(documents["adapter.json"].parent), tensors))
        (folder / "whole").write_bytes((folder / TENSORS).read_bytes())
    (folder / TENSORS).write_bytes(change((folder / "whole").read_bytes()))
    try:
        adapter = read_adapter(folder)
    except ArenaError as error:
        assert TENSORS in str(error)
    else:
        assert all(bool(torch.isfinite(tensor).all()) for tensor in adapter.tensors.values())
        adapter.updates()
