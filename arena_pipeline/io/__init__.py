"""Files in and out: images, the standard dataset layout, splits, JSON. Everything below here is values."""
