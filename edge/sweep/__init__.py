"""Sweeps: models x schemes x runtimes x targets x devices, on one machine or many, ending in one Pareto page."""
