"""The presets in plans/: complete, consistent with the published facts, and explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations import FoundationPreset, choose_foundation, load_preset, preset_folder, preset_names
from arena_pipeline.io.facts import load_fact
from arena_pipeline.settings import AdaptationSettings

PUBLISHED = ("clip_driven_swinunetr", "fseft", "monai_btcv", "ssl_swinvit", "suprem_swinunetr")


def test_the_presets_there_are() -> None:
    assert preset_names() == sorted([*PUBLISHED, "arena_mini"])


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_complete(name: str) -> None:
    content = json.loads((preset_folder() / f"{name}.json").read_text(encoding="utf-8"))
    preset = load_preset(name)
    assert preset.name == name
    assert set(content) == set(type(preset).model_fields)
    assert all(text.strip() for text in (preset.title, preset.licence, preset.citation, preset.weights.origin, preset.weights.expected_file))


@pytest.mark.parametrize("name", preset_names())
def test_structures_fit_the_output_channels(name: str) -> None:
    preset = load_preset(name)
    channels = sorted(preset.structures.values())
    first = 1 if preset.head == "softmax" else 0
    if preset.head == "none":
        assert len(set(channels)) == len(channels)
    else:
        assert channels == list(range(first, preset.architecture.out_channels))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_checkpoints_share_network_and_scheme(name: str) -> None:
    preset = load_preset(name)
    assert (preset.architecture.feature_size, preset.architecture.window_size_voxels) == (48, (7, 7, 7))
    assert preset.architecture.patch_merging == "monai_0.9.1"
    assert preset.scheme.spacing_mm == (1.5, 1.5, 1.5)
    assert preset.scheme.window_hu == (-175.0, 250.0)
    assert preset.scheme.patch_size_voxels == (96, 96, 96)
    assert preset.weights.packaged is None
    assert preset.adaptation == AdaptationSettings()  # the published settings


def test_channels_of_the_published_heads() -> None:
    facts = load_fact("structures")
    assert load_preset("fseft").structures == {name: number - 1 for name, number in facts["fseft_pretraining_structures"].items()}
    assert (load_preset("fseft").head, load_preset("fseft").architecture.out_channels) == ("sigmoid", 29)
    assert load_preset("monai_btcv").structures == facts["monai_btcv_structures"]
    assert (load_preset("monai_btcv").head, load_preset("monai_btcv").architecture.out_channels) == ("softmax", 14)


@pytest.mark.parametrize("name", ["fseft", "suprem_swinunetr", "clip_driven_swinunetr"])
def test_the_papers_base_and_novel_structures(name: str) -> None:
    tasks = load_fact("structures")["paper_tasks"]
    assert set(tasks["base"]) <= set(load_preset(name).structures)
    assert not set(tasks["novel"]) & set(load_preset(name).structures)


def test_restrictive_licences_are_told() -> None:
    assert all("CC BY-NC-ND" in load_preset(name).licence for name in ("suprem_swinunetr", "clip_driven_swinunetr"))


def test_the_most_preferred_installed_foundation_is_chosen(tmp_path: Path) -> None:
    order = ["arena_mini", "ssl_swinvit", "monai_btcv", "clip_driven_swinunetr", "suprem_swinunetr", "fseft"]
    assert choose_foundation(tmp_path)[0] == "arena_mini"
    for name in order[1:]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").touch()
        chosen, reason = choose_foundation(tmp_path)
        assert chosen == name
        assert "arena_mini" in reason


def test_an_unknown_foundation_lists_the_known() -> None:
    with pytest.raises(FoundationError, match="unknown foundation fsft; known: arena_mini, clip_driven_swinunetr, fseft"):
        load_preset("fsft")


def test_every_key_is_explained_in_the_readme() -> None:
    """Of the presets and of plans.json, down to the settings."""
    from arena_pipeline.foundations import FoundationPreset, Scheme, Weights
    from arena_pipeline.foundations.nnunet_scheme import NnunetScheme
    from arena_pipeline.model.architectures import SwinUnetr
    from arena_pipeline.model.architectures.unet import PlainUNet
    from arena_pipeline.planning import InferencePlan, Plans, TaskPlan, WorkersPlan
    from arena_pipeline.settings import AdaptationSettings

    readme = Path(str(preset_folder() / "README.md")).read_text(encoding="utf-8")
    models = (FoundationPreset, SwinUnetr, PlainUNet, Scheme, NnunetScheme, Weights, AdaptationSettings, Plans, TaskPlan, InferencePlan, WorkersPlan)
    missing = sorted({key for model in models for key in model.model_fields if f"`{key}`" not in readme})
    assert not missing, f"plans/README.md does not explain {missing}"


def test_a_preset_without_a_family_is_of_the_first_one_and_an_unknown_family_or_layout_lists_the_known() -> None:
    content = load_preset("fseft").model_dump(mode="json")
    assert content["architecture"].pop("family") == "swin_unetr"
    assert FoundationPreset.model_validate(content) == load_preset("fseft")
    assert FoundationPreset.model_validate_json(load_preset("fseft").model_dump_json()).architecture.family == "swin_unetr"
    for key, value, message in (
        ("architecture", {"family": "vnet"}, "unknown family 'vnet'; known: swin_unetr"),
        ("weights", {"layout": "x"}, "one of arena"),
    ):
        with pytest.raises(ValidationError, match=message):
            FoundationPreset.model_validate(content | {key: content[key] | value})
    with pytest.raises(ValidationError, match=r"architecture.depth\b"):
        FoundationPreset.model_validate(content | {"architecture": content["architecture"] | {"depth": 3}})
