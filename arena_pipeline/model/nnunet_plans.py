"""plans.json and dataset.json of an nnU-Net v2 model folder, in the format of today and in that before 2.5, to a preset's values.

What can't be taken over as it is, is refused: a model that is prepared for or read another way gives wrong segmentations without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from arena_pipeline.errors import FoundationError
from arena_pipeline.foundations.nnunet_scheme import NnunetScheme
from arena_pipeline.foundations.presets import Scheme
from arena_pipeline.io.label_names import BACKGROUND, IGNORE
from arena_pipeline.model.architectures.unet import PlainUNet, ResidualUNet, UNet

NETWORKS: dict[str, type[PlainUNet] | type[ResidualUNet]] = {"PlainConvUNet": PlainUNet, "ResidualEncoderUNet": ResidualUNet}
REORIENTING = "WithReorient"
READERS = {"SimpleITKIO": "as_stored", "NibabelIO": "as_stored", "SimpleITKIOWithReorient": "RAS", "NibabelIOWithReorient": "RAS"}
RESAMPLING = "resample_data_or_seg_to_shape"
PREPROCESSOR = "DefaultPreprocessor"
EXPECTED_KINDS = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}
EXPECTED_VALUES = {"norm_op_kwargs": ("eps", 1e-5), "nonlin_kwargs": ("negative_slope", 0.01)}  # other values leave no trace in the weights
UNKNOWN_VALUES = ("nonlin_first", "block", "bottleneck_channels", "stem_channels")  # of a network: only their defaults are supported here


def configuration_of(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration with what it inherits.

    Raises:
        FoundationError: there is none of this name, it inherits from itself, or it is one that is not supported.
    """
    known, chain = plans["configurations"], [name]
    while (parent := known.get(chain[-1], {}).get("inherits_from")) is not None:
        if parent in chain:
            raise FoundationError(f"plans.json: inherits_from goes round: {' -> '.join([*chain, parent])}", advice="mend inherits_from")
        chain.append(parent)
    if missing := [link for link in chain if link not in known]:
        raise FoundationError(
            f"plans.json has no configuration {missing[0]}; it has {', '.join(known) or 'none'}",
            advice="name the folder that belongs to these plans",
        )
    merged: dict[str, Any] = {}
    for link in reversed(chain):
        merged |= known[link]
    _refuse_configuration(name, merged)
    return merged


def _refuse_configuration(name: str, configuration: Mapping[str, Any]) -> None:
    if len(configuration["patch_size"]) != 3:
        raise FoundationError(f"configuration {name} is a 2D network", advice="name the folder of a 3d_fullres or 3d_lowres model")
    if configuration.get("previous_stage") is not None:
        raise FoundationError(
            f"configuration {name} is the second stage of a cascade: its input is also what the first, {configuration['previous_stage']}, found",
            advice="name the folder of a 3d_fullres or 3d_lowres model",
        )
    expected = {"preprocessor_name": PREPROCESSOR, "resampling_fn_data": RESAMPLING, "resampling_fn_probabilities": RESAMPLING}
    for key, value in expected.items():
        if configuration.get(key, value) != value:
            raise FoundationError(f"configuration {name}: {key} is {configuration[key]}, only {value} is supported", advice=RETRAIN_ADVICE)


RETRAIN_ADVICE = "train a model with nnU-Net's own planner, or use another foundation"


def structures_of(dataset: Mapping[str, Any]) -> dict[str, int]:
    """Structure -> output channel, background and `ignore` left out.

    Raises:
        FoundationError: regions, several input channels, or another image than CT.
    """
    channels = dataset.get("channel_names", dataset.get("modality", {}))
    names = list(channels.values())
    if len(names) != 1 or str(names[0]).lower() != "ct":
        found = ", ".join(map(str, names)) or "not named"
        raise FoundationError(f"dataset.json: the input channels are {found}, expected CT alone", advice=RETRAIN_ADVICE)
    labels = {name: value for name, value in dataset["labels"].items() if name != IGNORE}
    if dataset.get("regions_class_order") is not None or any(isinstance(value, (list, tuple)) for value in labels.values()):
        raise FoundationError("dataset.json: the labels are regions (lists), which overlap; expected one integer each", advice=RETRAIN_ADVICE)
    numbers = {name: int(value) for name, value in labels.items()}
    if sorted(numbers.values()) != list(range(len(numbers))) or numbers.get(BACKGROUND) != 0 or len(numbers) < 2:
        raise FoundationError(f"dataset.json: expected background 0 and consecutive integers, found {numbers}", advice="correct labels")
    return {name: value for name, value in numbers.items() if value}


def scheme_of(plans: Mapping[str, Any], configuration: Mapping[str, Any], canonical: bool) -> Scheme:
    """`canonical`: the images are turned to RAS before nnU-Net sees them, as TotalSegmentator does.

    Raises:
        FoundationError: a reader, a normalization or a way of resampling that is not known here.
    """
    reader = plans["image_reader_writer"]
    if reader not in READERS:
        raise FoundationError(f"plans.json: image_reader_writer is {reader}; known: {', '.join(READERS)}", advice=RETRAIN_ADVICE)
    facts = plans["foreground_intensity_properties_per_channel"]["0"]
    forward, back = configuration["resampling_fn_data_kwargs"], configuration["resampling_fn_probabilities_kwargs"]
    if back["order"] != 1 or back.get("force_separate_z") != forward.get("force_separate_z"):
        raise FoundationError(f"plans.json: probabilities are resampled with {back}, expected order 1", advice=RETRAIN_ADVICE)
    first, second, third = (2 - axis for axis in plans["transpose_forward"])  # nnU-Net's readers give (z, y, x)
    try:
        return Scheme(
            orientation="RAS" if canonical or READERS[reader] == "RAS" else "as_stored",
            spacing_mm=tuple(configuration["spacing"]),
            window_hu=(facts["percentile_00_5"], facts["percentile_99_5"]),
            patch_size_voxels=tuple(configuration["patch_size"]),
            nnunet=NnunetScheme(
                axes=(first, second, third),
                normalization=configuration["normalization_schemes"][0],
                mean_hu=facts["mean"],
                std_hu=max(facts["std"], 1e-8),
                masked=configuration["use_mask_for_norm"][0],
                order=forward["order"],
                order_z=forward.get("order_z", 0),
                order_z_back=back.get("order_z", 0),
                separate_z=forward.get("force_separate_z"),
                reader=reader.removesuffix(REORIENTING),
            ),
        )
    except ValidationError as error:
        raise FoundationError(f"plans.json: {_first(error)}", advice=RETRAIN_ADVICE) from None


def architecture_of(configuration: Mapping[str, Any], out_channels: int) -> UNet:
    """Raises FoundationError for a network that is neither of the two U-Nets, or one with parts that are not known here."""
    described = configuration.get("architecture")
    if described is None:
        return _old_architecture(configuration, out_channels)
    values = described["arch_kwargs"]
    network = described["network_class_name"].rsplit(".", 1)[-1]
    for key, kind in EXPECTED_KINDS.items():
        if str(values.get(key)).rsplit(".", 1)[-1] != kind:
            raise FoundationError(f"plans.json: {key} of the network is {values.get(key)}, expected {kind}", advice=RETRAIN_ADVICE)
    for key, (name, expected) in EXPECTED_VALUES.items():
        if (found := (values.get(key) or {}).get(name, expected)) != expected:
            raise FoundationError(f"plans.json: {name} in {key} of the network is {found}, only {expected} is supported", advice=RETRAIN_ADVICE)
    if others := [key for key in UNKNOWN_VALUES if values.get(key)]:
        raise FoundationError(f"plans.json: the network has {', '.join(others)}, which is not supported", advice=RETRAIN_ADVICE)
    blocks = values.get("n_conv_per_stage", values.get("n_blocks_per_stage"))
    lists = (values["features_per_stage"], values["kernel_sizes"], values["strides"], blocks, values["n_conv_per_stage_decoder"])
    return _architecture(network, lists, bool(values["conv_bias"]), out_channels)


def _old_architecture(configuration: Mapping[str, Any], out_channels: int) -> UNet:
    """Channels double from stage to stage up to a limit; convolutions have biases."""
    blocks = configuration["n_conv_per_stage_encoder"]
    base, limit = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    widths = [min(base * 2**stage, limit) for stage in range(len(blocks))]
    kernels, strides = configuration["conv_kernel_sizes"], configuration["pool_op_kernel_sizes"]
    lists = (widths, kernels, strides, blocks, configuration["n_conv_per_stage_decoder"])
    return _architecture(configuration["UNet_class_name"], lists, True, out_channels)


def _architecture(network: str, lists: tuple[Any, Any, Any, Any, Any], bias: bool, out_channels: int) -> UNet:
    if network not in NETWORKS:
        raise FoundationError(f"plans.json: the network is a {network}; known: {', '.join(NETWORKS)}", advice=RETRAIN_ADVICE)
    widths, kernels, strides, blocks, decoder = lists
    stages = range(len(kernels))
    try:
        return NETWORKS[network](
            out_channels=out_channels,
            features_per_stage=widths,
            kernel_sizes=tuple(map(tuple, kernels)),
            strides=tuple(map(tuple, strides)),
            blocks_per_stage=[blocks] * len(stages) if isinstance(blocks, int) else blocks,
            decoder_convolutions=[decoder] * (len(stages) - 1) if isinstance(decoder, int) else decoder,
            convolution_bias=bias,
        )
    except ValidationError as error:
        raise FoundationError(f"plans.json: {_first(error)}", advice=RETRAIN_ADVICE) from None


def _first(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    key = ".".join(map(str, fault["loc"]))
    return f"{key}: {fault['msg']}, found {fault['input']!r}" if key else fault["msg"]
