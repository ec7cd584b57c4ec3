"""What the sensors see, on its way into the engine."""
