"""Whose uid is what account: files, name service, groups and subordinate ranges, as one directory."""
