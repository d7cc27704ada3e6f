"""Aggregation rules: one vector of many, of which some may be lies."""
