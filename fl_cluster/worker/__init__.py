"""The training side: programs that train on servers' premises and take part in a job.

`cross_silo` takes part as devices do; `hybrid` retrains what devices made.  `training` is
what a training loop calls at each of its steps; everything that is arithmetic (`methods`,
`adaptive`, `proximal`) is pure NumPy.  Nothing here starts a thread before it is asked to.
"""
