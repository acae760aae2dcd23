"""Training of the demo models: feeding, augmentation, losses, the loop."""
