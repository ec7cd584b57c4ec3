"""What the guard knows, put together and put into words for people: `why`. Pure."""
