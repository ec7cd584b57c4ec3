"""What the guard knows, put into words for people: `why` of one user, `report` of the whole host. Pure."""
