"""Importing this makes `mindspore_federated` and its modules ours, here and in children.

A test suite does so in its `conftest.py`, or with `pytest -p fl_cluster.compat.install`.
"""

from __future__ import annotations

from fl_cluster.compat.finder import install

install()
