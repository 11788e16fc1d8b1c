"""Adapted models as files that are given away: packing, checking and installing them."""
