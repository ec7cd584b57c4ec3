"""Whose an account is, as the hosting panel of this host says: its files or a command, read in a process of its own."""
