"""Exact aggregation: sums of integers, which do not depend on who adds what when."""
