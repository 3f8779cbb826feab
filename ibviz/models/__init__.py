"""Classifiers: networks cut at an attended feature, their objective, their checkpoints, other people's weights."""
