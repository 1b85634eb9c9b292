"""Use cases: load, decide in one atomic store call, answer.  asyncio, but no HTTP and no Redis."""
