"""Sealed models: a file that holds description and arrays encrypted (sealing.py), read by whoever has its secret.

`sealed("mine.sealed")` is the model in it. The password is in ROBUSTBENCH_SEAL_PASSWORD, a key of 256 bits in
ROBUSTBENCH_SEAL_KEY; neither is ever part of a call string, a description or a record. Sealing keeps a file that leaks
from being a model that leaks; in the memory of a process that has loaded it the model lies open.
"""

from pathlib import Path

from robustbench_jax import sealing
from robustbench_jax.models import files
from robustbench_jax.registry import register
from robustbench_jax.types import Classifier, UserError, record
from robustbench_jax.whole_files import write_whole


@register("pretrained", "sealed")
@record
class Sealed:
    """path: a file that `robustbench-jax seal` wrote."""

    path: str

    def load(self) -> tuple[Classifier, dict]:
        return load(self.path)


def save(path: str | Path, classifier: Classifier, description: dict, secret: sealing.Secret) -> None:
    """Writes the model, sealed. UserError for a model whose description does not say how to build it."""
    content = sealing.seal(files.to_bytes(classifier, description), secret)
    write_whole(Path(path), lambda file: file.write(content))


def load(path: str | Path, secret: sealing.Secret | None = None) -> tuple[Classifier, dict]:
    """The model and its description. secret: None takes it from the environment or asks.

    Raises UserError for what is no sealed model, a wrong secret, and a file in which anything was changed.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return files.from_bytes(sealing.unseal(content, str(path), secret), str(path))
