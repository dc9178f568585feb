"""The runner for devices without Python: its C++ sources, and what builds, finds and understands it."""
