"""arena_cross_validate: what Dice to expect, from the scans that the model is adapted to, each left out once."""
