"""Run a cluster under faults and check every round.

python tests/chaos/run.py                           the short list
python tests/chaos/run.py --scenario redis-lines    one of it
python tests/chaos/run.py --minutes 30 --seed 7     everything at once, for the night
"""

from __future__ import annotations

import sys

from harness.main import main

if __name__ == "__main__":
    sys.exit(main())
