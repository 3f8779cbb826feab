"""Training: one loop, its schedule and augmentation, a run that can be stopped and resumed."""
