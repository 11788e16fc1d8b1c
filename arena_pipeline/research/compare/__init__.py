"""arena_compare: the runs of a comparison, their statistics, tables and report."""
