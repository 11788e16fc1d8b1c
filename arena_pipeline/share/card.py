"""What a package says to people: the model card and the licence notice, from nothing but validated fields."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from arena_pipeline.errors import PackageError
from arena_pipeline.foundations import FoundationPreset, install_command
from arena_pipeline.io.json_files import read_model
from arena_pipeline.model.adapter import AdapterRecord
from arena_pipeline.share.package import Manifest
from arena_pipeline.workspace import number_of

SHOWN_METRICS = ("Dice", "NSD_1mm", "HD95_mm", "volume_error_percent")
LIMITS = """\
For research. Not a medical device: nothing that it computes may be used for diagnosis or treatment. It takes CT in Hounsfield units. It is as good as
the few scans it was adapted on: another scanner, contrast phase, age group or pathology may need scans of its own. Evaluate it on annotated scans of
your own before you rely on it, and look at the previews.
"""


class EvaluationSummary(BaseModel):
    """What is taken from a summary.json of arena_evaluate; its cases are counted, never named.

    Attributes:
        structures: label, as text -> structure.
        mean: label, as text -> metric -> mean over the cases.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    structures: dict[str, str]
    mean: dict[str, dict[str, float]]
    metric_per_case: list[dict[str, object]]

    @classmethod
    def read(cls, path: Path, known: Sequence[str]) -> EvaluationSummary:
        """Raises PackageError: no summary of arena_evaluate, or one of structures that the model does not have (`known`)."""
        summary = read_model(path, cls, PackageError, "no such file; arena_evaluate writes summary.json", "name a summary.json of arena_evaluate")
        if foreign := sorted(set(summary.structures.values()) - set(known)):
            found = f"evaluates {', '.join(foreign)}, which the model does not have"
            raise PackageError(found, file=path, advice="name the summary of its own predictions")
        return summary

    def table(self) -> str:
        """Markdown: a row per structure."""
        metrics = [name for name in SHOWN_METRICS if any(name in values for values in self.mean.values())]
        rows = [
            [structure, *(f"{self.mean.get(label, {}).get(name, float('nan')):.3f}" for name in metrics)]
            for label, structure in self.structures.items()
        ]
        return _table(["structure", *metrics], rows)


def model_card(
    manifest: Manifest, preset: FoundationPreset, records: Sequence[AdapterRecord], summary: EvaluationSummary | None, known: Sequence[str] = ()
) -> str:
    """MODEL_CARD.md.

    Args:
        records: of every fold of every task in the package.
        known: sentences on the Dice to expect, and where the foundation as it is does as well.
    """
    structures = list(dict.fromkeys(name for record in records for name in record.structures))
    facts = [
        ["dataset", manifest.dataset_name],
        ["method", f"{manifest.method}, {manifest.shots} shots"],
        ["foundation", f"{preset.name}: {preset.title}"],
        ["SHA-256 of the foundation's weights", manifest.foundation_sha256],
        ["voxels", f"{' x '.join(f'{edge:g}' for edge in records[0].scheme.spacing_mm)} mm"],
        ["intensity window", f"{records[0].scheme.window_hu[0]:g} to {records[0].scheme.window_hu[1]:g} HU"],
        ["made with", f"arena-pipeline {manifest.arena_version}"],
    ]
    settings = [[name, str(value)] for name, value in records[0].settings.model_dump(mode="json").items()]
    evaluation = "No evaluation was added when this model was exported: its quality is unknown.\n"
    if summary is not None:
        evaluation = f"Means over {len(summary.metric_per_case)} cases, as stated by the person who exported it.\n\n{summary.table()}"
    evaluation += "".join(f"\n- {sentence}\n" for sentence in known)
    parts = [
        f"# {manifest.dataset_name}: {', '.join(structures)}\n",
        f"A model for arena-pipeline that segments {len(structures)} structure{'s' if len(structures) > 1 else ''} in CT: adapters of a pre-trained "
        f"network, which is not in this package.\n",
        _table(["what", "value"], facts),
        f"## Structures\n\n{_structures(records)}",
        f"## Use\n\n{_use(manifest, preset)}",
        f"## Evaluation\n\n{evaluation}",
        f"## Intended use and limits\n\n{LIMITS}",
        f"## Settings of the adaptation\n\n{_table(['setting', 'value'], settings)}",
        f"## Licence\n\n{manifest.licence}. See LICENCE.txt. Cite: {preset.citation}\n",
    ]
    return "\n".join(parts)


def licence_notice(manifest: Manifest, preset: FoundationPreset) -> str:
    """LICENCE.txt."""
    data = manifest.data_licence or "not said; ask who exported the model"
    return (
        f"This model derives from the foundation {preset.name} ({preset.title}).\n"
        f"Its licence holds for it and for what derives from it:\n\n    {manifest.licence}\n\n"
        f"The foundation comes from: {preset.weights.origin}\n"
        f"Cite: {preset.citation}\n\n"
        f"Licence of the scans and segmentations that the model was adapted on: {data}\n\n"
        f"With it come no scans, no segmentations and no names of cases.\n"
    )


def _structures(records: Sequence[AdapterRecord]) -> str:
    """A row per structure, over the folds of its task."""
    rows = []
    for task in dict.fromkeys(record.task for record in records):
        folds = [record for record in records if record.task == task]
        ranks = [str(sum(record.effective_rank.values())) for record in folds]
        trained = "decoder and head" if folds[0].train_decoder else "head"
        for name, label in folds[0].structures.items():
            numbers = ", ".join(str(record.fold) for record in folds)
            epochs = ", ".join(str(record.epochs) for record in folds)
            rows.append([name, str(label), folds[0].kind, trained, numbers, epochs, ", ".join(ranks), f"{folds[0].saved_parameters:,}"])
    return _table(
        ["structure", "label", "kind", "trained besides the update", "folds", "epochs", "effective rank, all layers", "numbers saved"], rows
    )


def _use(manifest: Manifest, preset: FoundationPreset) -> str:
    install = "" if preset.weights.packaged else f"    {' '.join(install_command(preset))}\n"
    where = "comes with arena-pipeline" if preset.weights.packaged else f"is to be had from: {preset.weights.origin}"
    number = number_of(manifest.dataset_name)
    return (
        f"The foundation {where}.\n\n{install}    arena_install_model THIS_FILE.zip\n"
        f"    arena_predict -i in/ -o out/ -d {number} -shots {manifest.shots} -foundation {preset.name} "
        f"-method {manifest.method}\n"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)
