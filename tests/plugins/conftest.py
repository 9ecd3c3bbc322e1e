"""The fake installation."""

from distributions import site as site
