"""The budget of monitoring: traffic(streams, queries, accounts, every), who asks how much and how fast."""

from robustbench_jax.registry import register
from robustbench_jax.types import UserError, record, require_positive, static


@register("budget", "traffic", threat="monitoring")
@record
class Traffic:
    """streams: attacks, or honest accounts. queries: of one of them at most, a day of honest ones. accounts: that one
    attack's queries are shared out to, in turn. every: seconds from one query of an attack to its next.
    """

    streams: int = static()
    queries: int = static()
    accounts: int = static(default=1)
    every: float = static(default=1.0)

    @property
    def recorded(self) -> str:
        """The traffic that is asked anyway, however it is shared out and how fast."""
        return f"traffic({self.streams}, {self.queries})"

    def __post_init__(self):
        require_positive("traffic", streams=self.streams, queries=self.queries, every=self.every)
        if not 1 <= self.accounts <= self.queries:
            raise UserError(f"traffic: accounts = {self.accounts} must be from 1 to queries = {self.queries}")
