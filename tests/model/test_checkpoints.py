"""What a file must be, and hold, to become a foundation."""

from __future__ import annotations

import gzip
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset, load_preset, preset_names
from arena_pipeline.model.architectures import SwinUnetr
from arena_pipeline.model.checkpoint_files import read_checkpoint_file
from arena_pipeline.model.checkpoints import match, read_foundation

HEADERS = {"module.organ_embedding": torch.zeros(32, 512), "module.GAP.0.weight": torch.ones(4), "module.precls_conv.0.bias": torch.ones(4)}


def tiny(name: str, feature_size: int = 12) -> FoundationPreset:
    """The preset of a published foundation with a network that fits a test."""
    preset = load_preset(name)
    small = preset.architecture.model_copy(update={"feature_size": feature_size, "window_size_voxels": (2, 2, 2)})
    return preset.model_copy(update={"architecture": small})


def state_of(preset: FoundationPreset) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return preset.architecture.build().state_dict()


def fseft(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("out.conv.conv", "classifier"): tensor for name, tensor in state.items()}


def suprem(state: dict[str, Tensor]) -> dict[str, Any]:
    inner = {f"module.backbone.{name}": tensor for name, tensor in state.items() if not name.startswith("out.")}
    return {"net": inner | HEADERS, "epoch": 7}


@pytest.fixture
def state() -> dict[str, Tensor]:
    return state_of(tiny("fseft"))


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def refusal(name: str, path: Path, **arguments: Any) -> str:
    with pytest.raises(FoundationError) as caught:
        read_foundation(tiny(name), path, others=[tiny(other) for other in preset_names()], **arguments)
    return str(caught.value)


# ---- what the file is


def test_every_preset_has_a_reader() -> None:
    assert {load_preset(name).weights.layout for name in preset_names()} <= set(SwinUnetr.layouts)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"\n <!DOCTYPE html><html><head>", "a web page"),
        (b"\xef\xbb\xbf<HTML>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 256000000\n", "Git LFS pointer to a file of 256,000,000 bytes.*lfs pull"),
        (b"Entry not found", "text that starts with 'Entry not found'"),
        (b"\x00\x01\x02\x03", "bytes that start with 00 01 02 03"),
        (gzip.compress(b"weights", mtime=0), "an archive: unpack it"),
    ],
)
def test_what_people_have_instead_of_a_checkpoint_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "fseft.pth"
    path.write_bytes(content)
    with pytest.raises(FoundationError, match=rf"fseft\.pth.*{message}"):
        read_checkpoint_file(path)


def test_a_missing_file_a_folder_and_a_zip_of_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FoundationError, match="No such file"):
        read_checkpoint_file(tmp_path / "nowhere.pth")
    with pytest.raises(FoundationError, match="directory"):
        read_checkpoint_file(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("weights/fseft.pth", b"x")
    with pytest.raises(FoundationError, match=r"an archive of weights/fseft\.pth; unpack it"):
        read_checkpoint_file(tmp_path / "a.zip")


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncated_file_is_told_wherever_it_ends(kind: str, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "cut.pth"
    tensors = {f"layer{index}.weight": torch.randn(9, 9) for index in range(4)}
    if kind == "safetensors":
        save_file(tensors, whole)
    else:
        torch.save(tensors, whole, _use_new_zipfile_serialization=kind == "zip")
    content = whole.read_bytes()
    assert set(read_checkpoint_file(whole)) == set(tensors)
    for length in range(20, len(content), 53):
        path.write_bytes(content[:length])
        with pytest.raises(FoundationError, match="truncated"):
            read_checkpoint_file(path)


class Code:
    """A pickle that copies a file when it is read."""

    def __init__(self, source: Path, target: Path) -> None:
        self.files = str(source), str(target)

    def __reduce__(self) -> tuple[Any, ...]:
        return shutil.copyfile, self.files


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_runs_only_if_it_is_trusted(zipped: bool, tmp_path: Path) -> None:
    path, marker = tmp_path / "suprem.pth", tmp_path / "marker"
    torch.save({"net": {"a": torch.ones(1)}, "scheduler": Code(Path(__file__), marker)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(FoundationError, match="would run code.*shutil.copyfile.*--trust_checkpoint"):
        read_checkpoint_file(path)
    assert not marker.exists()
    assert torch.equal(read_checkpoint_file(path, trust=True)["net"]["a"], torch.ones(1))
    assert marker.exists()


def test_trust_is_not_used_where_it_is_not_needed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read_checkpoint_file(save(tmp_path / "a.pth", {"a": torch.ones(1)}), trust=True)
    assert "--trust_checkpoint" not in caplog.text


def test_a_class_that_is_not_installed_is_an_error_even_if_trusted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"model": Code(tmp_path, tmp_path)})
    path.write_bytes(path.read_bytes().replace(b"shutil", b"shutal"))
    with pytest.raises(FoundationError, match="shutal"):
        read_checkpoint_file(path, trust=True)


def test_a_best_score_of_numpy_needs_no_trust(tmp_path: Path) -> None:
    assert read_checkpoint_file(save(tmp_path / "a.pt", {"best_acc": np.float64(0.5), "epoch": np.int64(3)})) == {"best_acc": 0.5, "epoch": 3}


def test_a_bare_pickle_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(FoundationError, match=r"a\.pkl"):
        read_checkpoint_file(tmp_path / "a.pkl")


# ---- what it holds


def test_every_weight_is_counted(state: dict[str, Tensor], tmp_path: Path) -> None:
    """159 tensors of a Swin UNETR, 8 of them position indices; SuPreM's lacks the head's 2; SSL has the 126 of the Swin encoder without 8."""
    found = read_foundation(tiny("fseft"), save(tmp_path / "a.pth", fseft(state)))
    assert (found.wanted, found.matched, found.missing, found.unexpected, found.ignored) == (151, 151, (), (), ())
    assert len(found.tensors) == 159
    found = read_foundation(tiny("suprem_swinunetr"), save(tmp_path / "b.pth", suprem(state)))
    assert (found.matched, len(found.ignored), len(found.tensors)) == (149, 3, 157)
    encoder = {name: tensor for name, tensor in state.items() if name.startswith("swinViT.")}
    found = read_foundation(tiny("ssl_swinvit"), save(tmp_path / "c.pt", {"state_dict": encoder}))
    assert (found.matched, set(found.tensors)) == (len(encoder) - 8, set(encoder))


def test_what_belongs_to_nothing_known_is_listed(state: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", fseft(state) | {"module.projector.weight": torch.ones(1)})
    assert read_foundation(tiny("fseft"), path).unexpected == ("module.projector.weight",)


@pytest.mark.parametrize(
    "removed", ["swinViT.layers3.0.blocks.1.attn.qkv.weight", "encoder10.layer.conv1.conv.weight", "decoder2.conv_block.conv1.conv.weight"]
)
def test_a_file_that_does_not_fill_encoder_and_decoder_is_refused(removed: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    del state[removed]
    part = "decoder" if removed.startswith("decoder") else "encoder"
    message = refusal("suprem_swinunetr", save(tmp_path / "a.pth", suprem(state)))
    assert f"1 weights are missing (1 of the {part}: {removed})" in message
    assert "supervised_suprem_swinunetr_2100.pth" in message


def test_an_encoder_alone_fits_the_foundation_that_is_one(state: dict[str, Tensor], tmp_path: Path) -> None:
    encoder = {"state_dict": {f"module.{name.removeprefix('swinViT.')}": tensor for name, tensor in state.items() if name.startswith("swinViT.")}}
    message = refusal("monai_btcv", save(tmp_path / "a.pt", encoder))
    assert "of the decoder" in message and "2 of the head" in message
    assert f"It fits ssl_swinvit: arena_install_foundation ssl_swinvit {tmp_path / 'a.pt'}" in message
    missing = encoder["state_dict"].popitem()[0]
    message = refusal("ssl_swinvit", save(tmp_path / "b.pt", encoder))
    assert f"1 weights are missing (1 of the encoder: swinViT.{missing.removeprefix('module.')}" in message


def test_the_file_of_another_family_says_which(state: dict[str, Tensor], tmp_path: Path) -> None:
    message = refusal("fseft", save(tmp_path / "a.pth", suprem(state)))
    assert "expected its tensors at the top of the file, found net, epoch" in message
    assert "It fits clip_driven_swinunetr and suprem_swinunetr" in message
    assert "It fits fseft:" in refusal("ssl_swinvit", save(tmp_path / "b.pth", fseft(state)))
    message = refusal("suprem_swinunetr", save(tmp_path / "b.pth", fseft(state)))  # fills encoder and decoder, but is not SuPreM's
    assert "2 tensors are unknown to it (classifier.weight, classifier.bias)" in message and "It fits fseft:" in message


def test_wrong_shapes_say_which_network_it_is_and_which_preset_fits(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", fseft(state_of(tiny("fseft", 24))))
    message = refusal("fseft", path)
    assert "swinViT.patch_embed.proj.weight is (24, 1, 2, 2, 2) instead of (12, 1, 2, 2, 2)" in message
    assert "feature_size 24, in_channels 1, window_size_voxels 2, out_channels 29" in message
    assert "fits no other foundation" in message
    larger = tiny("fseft", 24).model_copy(update={"name": "fseft_24"})
    with pytest.raises(FoundationError, match="It fits fseft_24"):
        read_foundation(tiny("fseft"), path, others=[larger])


def test_a_head_with_other_channels_is_refused(tmp_path: Path) -> None:
    fourteen = tiny("fseft").architecture.model_copy(update={"out_channels": 14})
    state = state_of(tiny("fseft").model_copy(update={"architecture": fourteen}))
    assert "out_channels 14" in refusal("fseft", save(tmp_path / "a.pth", fseft(state)))


def test_a_deeper_or_newer_network_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    """A third block per stage, or MONAI's SwinUNETR-V2, has all that is wanted, and more that would be left out."""
    for extra in ("swinViT.layers3.0.blocks.2.norm1.weight", "swinViT.layers1c.0.layer.conv1.conv.weight"):
        message = refusal("fseft", save(tmp_path / "a.pth", fseft(state) | {extra: torch.ones(1)}))
        assert f"1 tensors have no place in the parts of the network that it brings ({extra})" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float, state: dict[str, Tensor], tmp_path: Path) -> None:
    name = "decoder3.transp_conv.conv.weight"
    state[name].view(-1)[5] = value
    assert f"not finite numbers ({name})" in refusal("fseft", save(tmp_path / "a.pth", fseft(state)))


def test_position_indices_outside_the_table_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    name = "swinViT.layers1.0.blocks.0.attn.relative_position_index"
    state[name][0, 0] = 27  # the table of a window of 2 has 27 rows
    assert f"point outside their tables ({name})" in refusal("fseft", save(tmp_path / "a.pth", fseft(state)))


def test_a_name_that_occurs_twice_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    twice = fseft(state) | {f"module.{name}": tensor for name, tensor in fseft(state).items() if name.startswith("decoder1.")}
    assert "no place in the parts" in refusal("fseft", save(tmp_path / "a.pth", twice))


@pytest.mark.parametrize(("content", "found"), [([1, 2], "list"), ({}, "nothing"), ({"state_dict": 3, "epoch": 1}, "state_dict, epoch")])
def test_a_file_without_tensors_says_what_it_has(content: Any, found: str, tmp_path: Path) -> None:
    assert f"found {found}" in refusal("monai_btcv", save(tmp_path / "a.pt", content))


def test_a_whole_pickled_network_is_read_if_trusted(tmp_path: Path) -> None:
    preset = tiny("monai_btcv")
    path = save(tmp_path / "a.pt", preset.architecture.build())
    assert "--trust_checkpoint" in refusal("monai_btcv", path)
    assert read_foundation(preset, path, trust=True).matched == 151


def test_looking_for_a_match_leaves_the_random_numbers_alone(state: dict[str, Tensor]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    match(tiny("fseft", 36), fseft(state))
    assert torch.equal(torch.rand(1), expected)
