"""`python -m fl_cluster` is `fl-cluster`."""

import sys

from fl_cluster.app.cli import main

sys.exit(main())
