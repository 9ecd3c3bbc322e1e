"""Reward families."""
