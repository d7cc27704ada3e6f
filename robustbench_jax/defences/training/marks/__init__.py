"""Marks of ownership: training defences whose owner can tell her model, or a copy of it, from others."""
