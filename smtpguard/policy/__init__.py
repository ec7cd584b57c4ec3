"""The pure policy core: windows, rules, who may be hit. No clock, no socket, no file."""
