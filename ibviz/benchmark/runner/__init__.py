"""Runs of suites that survive interruptions: planned, shared between processes, stored in parts, then merged."""
