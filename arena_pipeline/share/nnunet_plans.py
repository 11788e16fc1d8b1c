"""plans.json, dataset.json and the checkpoint of an nnU-Net v2 model, from a network of ARENA's: what model.nnunet_plans and _checkpoint read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from arena_pipeline.errors import PackageError
from arena_pipeline.foundations import FoundationPreset, Scheme
from arena_pipeline.foundations.nnunet_scheme import NnunetScheme
from arena_pipeline.model.architectures.unet import ResidualUNet, UNet
from arena_pipeline.model.nnunet_plans import NETWORKS, PREPROCESSOR, REORIENTING, RESAMPLING

TRAINER, PLANS_NAME, CONFIGURATION = "nnUNetTrainer", "nnUNetPlans", "3d_fullres"
NNUNET_MODEL_FOLDER = f"{TRAINER}__{PLANS_NAME}__{CONFIGURATION}"
NORM_AND_NONLINEARITY = {
    "conv_op": "torch.nn.modules.conv.Conv3d",
    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "dropout_op": None,
    "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU",
    "nonlin_kwargs": {"inplace": True},
}
IMPORTED = ("conv_op", "norm_op", "dropout_op", "nonlin")
COARSE_HEAD = "decoder.seg_layers.{}"


def require_unet(preset: FoundationPreset) -> UNet:
    """The architecture of a foundation that nnU-Net could have made.

    Raises:
        PackageError: it has no such network, or does not prepare images so.
    """
    if not isinstance(preset.architecture, UNet):
        found = f"nnU-Net has no network like {preset.name}, a {preset.architecture.family}"
    elif preset.scheme.nnunet is None:
        found = f"{preset.name} has its images prepared in another way than nnU-Net does"
    else:
        return preset.architecture
    raise PackageError(found, advice="adapt a foundation that came from an nnU-Net or TotalSegmentator folder, or export with -o model.zip")


def nnunet_plans(dataset_name: str, architecture: UNet, scheme: Scheme) -> dict[str, Any]:
    """plans.json in the format of nnU-Net 2.5 and later, with one configuration."""
    conventions = scheme.nnunet or NnunetScheme()
    forward = [2 - axis for axis in conventions.axes]  # nnU-Net's readers give (z, y, x)
    separate = conventions.separate_z
    configuration = {
        "data_identifier": f"{PLANS_NAME}_{CONFIGURATION}",
        "preprocessor_name": PREPROCESSOR,
        "batch_size": 2,
        "patch_size": list(scheme.patch_size_voxels),
        "median_image_size_in_voxels": list(scheme.patch_size_voxels),  # for nnU-Net's own training alone
        "spacing": list(scheme.spacing_mm),
        "normalization_schemes": [conventions.normalization],
        "use_mask_for_norm": [conventions.masked],
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_data_kwargs": _resampling(False, conventions.order, conventions.order_z, separate),
        "resampling_fn_seg_kwargs": _resampling(True, 1, 0, separate),
        "resampling_fn_probabilities": RESAMPLING,
        "resampling_fn_probabilities_kwargs": _resampling(False, 1, conventions.order_z_back, separate),
        "architecture": _described(architecture),
        "batch_dice": False,
    }
    low, high = scheme.window_hu
    intensities = {"mean": conventions.mean_hu, "std": conventions.std_hu, "percentile_00_5": low, "percentile_99_5": high}
    return {
        "dataset_name": dataset_name,
        "plans_name": PLANS_NAME,
        "original_median_spacing_after_transp": list(scheme.spacing_mm),
        "original_median_shape_after_transp": list(scheme.patch_size_voxels),
        "image_reader_writer": conventions.reader + (REORIENTING if scheme.orientation == "RAS" else ""),
        "transpose_forward": forward,
        "transpose_backward": [forward.index(axis) for axis in range(3)],
        "configurations": {CONFIGURATION: configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": intensities},
    }


def _resampling(is_seg: bool, order: int, order_z: int, separate_z: bool | None) -> dict[str, Any]:
    return {"is_seg": is_seg, "order": order, "order_z": order_z, "force_separate_z": separate_z}


def _described(architecture: UNet) -> dict[str, Any]:
    name = next(name for name, family in NETWORKS.items() if isinstance(architecture, family))
    blocks = "n_blocks_per_stage" if isinstance(architecture, ResidualUNet) else "n_conv_per_stage"
    values = {
        "n_stages": len(architecture.features_per_stage),
        "features_per_stage": list(architecture.features_per_stage),
        "kernel_sizes": [list(kernel) for kernel in architecture.kernel_sizes],
        "strides": [list(stride) for stride in architecture.strides],
        blocks: list(architecture.blocks_per_stage),
        "n_conv_per_stage_decoder": list(architecture.decoder_convolutions),
        "conv_bias": architecture.convolution_bias,
    }
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": values | NORM_AND_NONLINEARITY,
        "_kw_requires_import": list(IMPORTED),
    }


def nnunet_tensors(tensors: Mapping[str, Tensor], architecture: UNet) -> dict[str, Tensor]:
    """The state of a network under all names that nnU-Net's has; copies share their memory, in the file too.

    Heads of the coarser levels, which nothing reads in prediction, are zero.
    """
    named = dict(tensors)
    classes = len(tensors[f"{architecture.head}.weight"])
    for level, width in enumerate(architecture.features_per_stage[-2:0:-1]):
        named[f"{COARSE_HEAD.format(level)}.weight"] = torch.zeros(classes, width, 1, 1, 1)
        named[f"{COARSE_HEAD.format(level)}.bias"] = torch.zeros(classes)
    for name, tensor in list(named.items()):
        for number, part in enumerate(("conv", "norm")):
            if (copy := re.sub(rf"\.{part}\.(weight|bias)$", rf".all_modules.{number}.\1", name)) != name:
                named[copy] = tensor
    return named | {f"decoder.{name}": tensor for name, tensor in named.items() if name.startswith("encoder.")}
