"""Which of several foundations has seen the part of the body that a structure lies in, told from names alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from arena_pipeline.foundations.presets import FoundationPreset

VESSELS = "the heart and the great vessels"
REGIONS: dict[str, tuple[str, ...]] = {
    VESSELS: (
        *("heart", "atri", "ventricle", "myocard", "pericard", "coronar", "cardiac", "valve", "aort", "vena_cava"),
        *("pulmonary_artery", "pulmonary_vein", "portal_vein", "subclavian", "carotid", "brachiocephalic", "aneurysm"),
    ),
    "the spine": ("vertebra", "spine", "spinal", "sacrum", "disc", "lumbar"),
    "the ribs and the breastbone": ("rib", "stern", "costal"),
    "muscles and bones of the limbs": (
        *("muscle", "glute", "iliopsoas", "psoas", "autochthon", "femur", "femoral_head", "hip", "pelvis", "humerus", "scapula", "clavic"),
        *("skull", "brain", "tibia", "patella", "sternocleidomastoid"),
    ),
    "the organs of chest and abdomen": (
        *("liver", "hepatic", "kidney", "renal", "spleen", "splen", "pancrea", "stomach", "gastric", "duoden", "bowel", "colon", "intestin"),
        *("gallbladder", "biliary", "bile", "adrenal", "lung", "lobe", "pulmonary", "bronch", "trachea", "esophag", "oesophag", "thyroid"),
        *("bladder", "prostate", "uter", "ovar", "rectum", "appendix", "peritone", "ascites", "pleura"),
    ),
}
GENERIC = ("vessel", "artery", "arteries", "vein", "vena")


def region_of(structure: str) -> str | None:
    """The region whose longest word is in the name: pulmonary_artery is no lung. None for a name without such a word.

    A vessel is of the organ that its name also has: liver_vessels lie where the liver is seen.
    """
    name = structure.lower().replace(" ", "_").replace("-", "_")
    found = [(len(word), region) for region, words in REGIONS.items() for word in words if word in name]
    return max(found)[1] if found else VESSELS if any(word in name for word in GENERIC) else None


def by_anatomy(presets: Mapping[str, FoundationPreset], structures: Iterable[str]) -> tuple[str, str] | None:
    """The foundation that knows most of the structures or, where that is a tie, has most of its own structures in their regions; and why.

    None where names do not tell, or two foundations are alike.
    """
    wanted = list(structures)
    known = {name: sum(one in preset.structures for one in wanted) for name, preset in presets.items()}
    if (best := _only_best(known)) is not None:
        return best, f"{best} was pre-trained on {', '.join(one for one in wanted if one in presets[best].structures)}"
    regions = Counter(region for one in wanted if (region := region_of(one)) is not None)
    shares = {}
    for name, preset in presets.items():
        inside = sum(region_of(one) in regions for one in preset.structures)
        shares[name] = inside / max(1, len(preset.structures))
    if not regions or (best := _only_best(shares)) is None:
        return None
    belongs = "belongs" if len(wanted) == 1 else "belong"
    where = f"{', '.join(wanted)} {belongs} to {' and '.join(regions)} by name"
    return best, f"{where}, as do {100 * shares[best]:.0f} % of the structures that {best} was pre-trained on"


def _only_best(scores: Mapping[str, float]) -> str | None:
    highest = max(scores.values())
    best = [name for name, score in scores.items() if score == highest]
    return best[0] if highest > 0 and len(best) == 1 else None
