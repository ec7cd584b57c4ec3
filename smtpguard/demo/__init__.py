"""A laboratory of namespaces and the demonstration that plays in it. Tests use the same laboratory."""
