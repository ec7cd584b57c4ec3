"""Pure decoders: bytes in, events out. No clock, no socket, no file."""
