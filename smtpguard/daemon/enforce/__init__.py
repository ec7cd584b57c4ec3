"""What the running guard makes the kernel refuse: one object, `Enforcement`, and the parts it puts in step."""
