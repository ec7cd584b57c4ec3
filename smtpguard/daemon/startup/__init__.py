"""How the daemon begins and what it says of it."""
