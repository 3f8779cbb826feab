"""Training: the loop, its schedule and augmentation, and runs that can be stopped and resumed."""
