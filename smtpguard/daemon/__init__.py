"""The daemon: one loop that owns all mutable state and joins sources, engine and actions."""
