"""The device protocol: bytes on one side, typed messages on the other, and no I/O between."""
