"""Comparisons: explanations judged on the same images, with intervals and controls, from Python or from a suite."""
