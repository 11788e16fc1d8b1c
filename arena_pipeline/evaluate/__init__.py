"""From two segmentations to scores, and from scores to tables."""
