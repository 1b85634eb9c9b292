"""Start the scheduler of a job, in the background; `--help` shows all arguments."""

import sys

import checkout

checkout.prepare()

from fl_cluster.app.cli import script_main  # noqa: E402 - only importable once prepared

if __name__ == "__main__":
    sys.exit(script_main("sched", __file__))
