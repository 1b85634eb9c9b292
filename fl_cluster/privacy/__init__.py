"""What hides a single update: masks that cancel in the sum, noise, and few signs of many.

Arithmetic and cryptography only: no sockets, no store, no clock.  The genuine devices'
schemes are here to the bit (`pairwise`, `unmasking`, `local_dp`, `signds`), and beside them
what new deployments should use (`ring`, `central_dp`, `accountant`).
"""
