"""What surrounds a training step."""
