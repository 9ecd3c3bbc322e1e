"""Policies: controllers of N environments, all through the one loop."""
