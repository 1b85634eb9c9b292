"""Smaller messages: 8-bit models for devices, and sparse 8-bit differences from them.

The arithmetic of published devices, to the bit, in both directions.  Not here: who may use
which compression with what (`config.combinations`), and the messages (`wire`).
"""
