"""From a volume to its segmentation: sliding window, export to the image's own grid, preview."""
