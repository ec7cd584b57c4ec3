"""What is looked up about an event: accounts, processes, reverse DNS. Off the verdict path."""
