"""The command line, robustbench-jax: verbs such as sweep, attack, certify, poison, train (cli/parser.py has them all).

Everything for people goes to stderr, results go to stdout. Wrong input is one line and exit code 2; a sweep with failed
cells, or in which an attack breaks what is certified, ends with 1, an interrupted one with 130.
"""

import os
import sys
import traceback
from contextlib import suppress

from robustbench_jax.cli.parser import make_parser
from robustbench_jax.types import UserError

__all__ = ["main", "use_all_cores"]


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        options = make_parser().parse_args(arguments)
        use_all_cores()
        return options.run(options)
    except UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"robustbench-jax: {error}", file=sys.stderr)
        return 2
    except MemoryError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        why = f": {error}" if str(error) else ""
        print(f"robustbench-jax: out of memory{why}; ask for fewer images or queries", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "robustbench-jax: stopped; what was finished is kept, the same command goes on from there", file=sys.stderr
        )
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def use_all_cores() -> None:
    """One XLA device for each core, so that the driver splits the batch over them: on CPU that is faster than threads
    inside each operation. Has no effect on accelerators, where XLA_FLAGS already say how many, or once JAX has begun.
    """
    import jax

    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        mine = getattr(os, "sched_getaffinity", None)
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", len(mine(0)) if mine else os.cpu_count() or 1)
