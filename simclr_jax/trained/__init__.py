"""What can be done with a trained network: read it back, choose images for it, judge it."""
