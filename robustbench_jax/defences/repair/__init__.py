"""Repairs: from a model that may have a backdoor, and trusted images, to one that should have none."""
