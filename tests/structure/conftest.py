"""The fake installation, for plugins of strangers."""

from distributions import site as site
