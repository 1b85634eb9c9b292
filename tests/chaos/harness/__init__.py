"""A cluster of real processes, faults on purpose, and a witness that checks every round.

    run.py -> scenarios -> world (processes, proxies, devices) + plan (what goes wrong, by seed)
                        -> witness (Redis, files and what devices were told, against reference)

Nothing here is imported by the cluster, and the witness reads what the cluster stored with
code of its own, so that one mistake cannot hide in both.
"""
