"""Devices: target profiles, transports and the profiling harness."""
