"""The checkpoints of one training run (Orbax): the newest two, each written whole or not at all."""

import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from robustbench_jax.types import UserError


class Keeper:
    """Keeps any pytree of arrays in `directory`, under the number of the step at which it was saved."""

    def __init__(self, directory: str | Path):
        import orbax.checkpoint

        options = orbax.checkpoint.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self.args, self.directory = orbax.checkpoint.args, Path(directory).absolute()
        self.manager = orbax.checkpoint.CheckpointManager(self.directory, options=options)

    def newest(self, state: Any) -> Any:
        """The state in the newest checkpoint that can be read, or `state` where there is none."""
        for step in sorted(self.manager.all_steps(), reverse=True):
            try:
                leaves = self.manager.restore(step, args=self.args.StandardRestore(_leaves(state)))
            except Exception as error:
                warnings.warn(
                    f"checkpoint {step} in {self.directory} is damaged and passed over: {str(error).splitlines()[0]}",
                    stacklevel=2,
                )
                self.manager.delete(step)
                continue
            return jax.tree.unflatten(jax.tree.structure(state), [leaves[name] for name in _leaves(state)])
        return state

    def save(self, step: int, state: Any) -> None:
        """Raises UserError where it cannot be written."""
        try:
            self.manager.save(step, args=self.args.StandardSave(_leaves(state)))
        except (OSError, ValueError) as error:
            raise UserError(
                f"could not write checkpoint {step} to {self.directory}: {error}; the one before it is "
                "whole, and the same command goes on from there"
            ) from error


def _leaves(state: Any) -> dict[str, np.ndarray]:
    return {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
