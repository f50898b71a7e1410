"""Datasets: find recordings, cache clips of them, split, load."""
