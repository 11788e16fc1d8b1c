"""How often a comparison says "better" where there is no difference, and how often its 95 % interval holds the truth, by simulation.

    python -m benchmarks.verdicts

Each comparison is thirty query cases and some folds. What differs between two equally good methods: support sets (every case of a fold moves),
cases (every fold of a case moves), both, or support sets whose differences are skewed (most small, few large). A percentile bootstrap over folds
and cases, and one over cases alone, which earlier versions had, are shown beside it.
"""

from __future__ import annotations

import numpy as np

from arena_pipeline.research.compare.statistics import estimate, verdict

COMPARISONS, CASES, RESAMPLES = 2_000, 30, 400
NOISE, SPREAD = 0.01, 0.02
FOLDS = (3, 6, 10)


def main() -> None:
    rng = np.random.default_rng(0)
    error = (0.05 * 0.95 / COMPARISONS) ** 0.5
    print(f"{COMPARISONS} comparisons without a true difference, {CASES} cases each; standard error of 5 %: {error:.1%}")
    print("| what differs | folds | wrong verdicts | interval holds the truth | bootstrap of folds and cases does | bootstrap of cases does |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in ("support sets", "cases", "both", "support sets, skewed"):
        for folds in FOLDS:
            scores = [_scores(name, folds, rng) for _ in range(COMPARISONS)]
            found = [estimate(one[None]) for one in scores]
            wrong = np.mean([verdict(one, one.p) in ("better", "worse") for one in found])
            covered = np.mean([one.low <= 0 <= one.high for one in found])
            boot = [np.mean([_bootstrap_covers(one, rng, with_folds) for one in scores]) for with_folds in (True, False)]
            print(f"| {name} | {folds} | {wrong:.1%} | {covered:.1%} | {boot[0]:.1%} | {boot[1]:.1%} |", flush=True)


def _scores(what: str, folds: int, rng: np.random.Generator) -> np.ndarray:
    """(folds, cases) of mean 0."""
    scores = rng.normal(0, NOISE, (folds, CASES))
    if what in ("support sets", "both"):
        scores += rng.normal(0, SPREAD, (folds, 1))
    if what in ("cases", "both"):
        scores += rng.normal(0, SPREAD * 3, (1, CASES))
    if what == "support sets, skewed":
        scores += SPREAD * (rng.exponential(1, (folds, 1)) - 1)
    return scores


def _bootstrap_covers(scores: np.ndarray, rng: np.random.Generator, with_folds: bool) -> bool:
    folds, cases = scores.shape
    drawn = rng.multinomial(cases, np.full(cases, 1 / cases), RESAMPLES) / cases
    of_folds = rng.multinomial(folds, np.full(folds, 1 / folds), RESAMPLES) / folds if with_folds else np.full((RESAMPLES, folds), 1 / folds)
    low, high = np.percentile(np.einsum("rf,fc,rc->r", of_folds, scores, drawn), [2.5, 97.5])
    return bool(low <= 0 <= high)


if __name__ == "__main__":
    main()
