"""The round: what can happen to it, and what follows.  Pure: no clock, no I/O, no randomness."""
