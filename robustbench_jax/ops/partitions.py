"""Partitions of training images by content, for certificates against poisoning.

An image's bucket is the sum of its pixels modulo the number of buckets (Levine & Feizi, ICLR 2021, arXiv:2006.14768),
so that it depends on the image alone; a label flip stays in its bucket. A bucket is seen by `spread` models (Wang,
Levine & Feizi, ICML 2022, arXiv:2202.02628): those at fixed offsets from it.
Shapes: N images, M models and as many buckets.
"""

import numpy as np

SEED = 2022  # of the offsets, which may be any, as long as no data have a say


def buckets(x: np.ndarray, models: int) -> np.ndarray:
    """int [N] of images x uint8 [N, H, W, C]."""
    return x.reshape(len(x), -1).astype(np.int64).sum(1) % models


def offsets(models: int, spread: int) -> np.ndarray:
    """int [spread]: model (b + offset) % M sees bucket b; the first is 0."""
    more = np.random.default_rng(SEED).permutation(np.arange(1, models))[: spread - 1]
    return np.concatenate([[0], more]).astype(int)


def parts(x: np.ndarray, y: np.ndarray, models: int, spread: int) -> list[np.ndarray]:
    """The rows that each model sees, in an order that depends on their contents alone: pixels, then labels."""
    bucket, flat = buckets(x, models), x.reshape(len(x), -1)
    of_bucket = []
    for number in range(models):
        rows = np.flatnonzero(bucket == number)
        keys = (y[rows], *flat[rows].T[::-1]) if len(rows) else ()
        of_bucket.append(rows[np.lexsort(keys)] if len(rows) else rows)
    shifts = offsets(models, spread)
    return [np.concatenate([of_bucket[(m - shift) % models] for shift in shifts]) for m in range(models)]
