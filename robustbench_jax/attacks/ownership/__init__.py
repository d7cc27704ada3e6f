"""Attacks on ownership: what a thief does to a marked model, or claims of it."""
