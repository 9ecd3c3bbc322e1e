"""A folder for installed distributions, for the plugins on the pages."""

from distributions import site as site
