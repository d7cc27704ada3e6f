"""Makes the embedded part of Fashion-MNIST from the files of Debian's package dataset-fashion-mnist.

python scripts/embed_fashion_mnist.py writes robustbench_jax/data/embedded/fashion_mnist_mini.npy.xz
"""

import io
import lzma
from pathlib import Path

import numpy as np

from robustbench_jax.data.fashion_mnist import EMBEDDED, IDX_PARTS, TRAIN, idx_file, read_idx


def main() -> None:
    rows = []
    for split, count in (("train", TRAIN), ("test", 2_000)):
        x, y = (read_idx(idx_file(split, part))[:count] for part in IDX_PARTS)
        rows.append(np.column_stack([x.reshape(count, -1), y]))
    file = io.BytesIO()
    np.save(file, np.concatenate(rows))
    packed = lzma.compress(file.getvalue(), preset=9 | lzma.PRESET_EXTREME)
    target = Path(__file__).parents[1] / "robustbench_jax/data" / EMBEDDED
    target.write_bytes(packed)
    print(f"{target}: {len(packed):,} bytes")


if __name__ == "__main__":
    main()
