"""Lets every topic import what they share: pytest puts the folder of a conftest on the import path."""
