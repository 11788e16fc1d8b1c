"""arena_cross_validate: the Dice to expect on new scans, estimated by leaving out each support scan once."""
