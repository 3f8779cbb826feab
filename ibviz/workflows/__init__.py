"""Whole jobs of the command line, from files to files."""
