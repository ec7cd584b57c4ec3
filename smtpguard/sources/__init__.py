"""Sources of Connects: one thin adapter a sensor."""
