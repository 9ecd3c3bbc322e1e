"""Blueprints: architectures of seeds, each exactly 0 at birth with gradient in every parameter."""
