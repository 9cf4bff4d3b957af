"""Benchmarks: figures that anyone can measure again. `make bench` runs them; they are not tests."""
