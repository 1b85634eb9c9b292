"""Programs that were written for MindSpore Federated 0.1.0, unchanged.

`python -m fl_cluster.compat PROGRAM.py [arguments]` runs one, and `import
fl_cluster.compat.install` makes the names known to whatever is imported after it: the package
`mindspore_federated`, its modules as far as programs use them, and nothing behind them but
`fl_cluster.program`.
"""
