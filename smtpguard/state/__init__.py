"""What survives a restart: blocks, allowances and verdicts in SQLite."""
