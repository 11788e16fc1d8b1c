"""The commands: one module each, which parses, calls once and returns an exit status."""
