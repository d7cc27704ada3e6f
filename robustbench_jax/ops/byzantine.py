"""The budget of Byzantine clients: byzantine(f), how many of them lie.

Reference: Lamport, Shostak & Pease, ACM Transactions on Programming Languages and Systems 4(3), 1982.
"""

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, static


@register("budget", "byzantine", threat="byzantine", paper="lamport1982")
@record
class Byzantine:
    """f: number of clients; decides shapes, so that another one compiles anew."""

    f: int = static()

    def __post_init__(self):
        if self.f < 0:
            raise UserError(f"byzantine: f = {self.f} must be at least 0")
