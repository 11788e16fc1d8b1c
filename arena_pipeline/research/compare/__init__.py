"""From the runs of a comparison to its statistics and tables: values to values, no files but the report's."""
