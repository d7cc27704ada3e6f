"""python -m robustbench_jax.cli"""

import sys

from robustbench_jax.cli import main

sys.exit(main())
