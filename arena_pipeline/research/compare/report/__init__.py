"""report.html of a comparison: one file that needs no other."""

from arena_pipeline.research.compare.report.page import write_report

__all__ = ["write_report"]
