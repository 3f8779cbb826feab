"""Localisation metrics: maps compared with the region of an object."""
