"""The fake installation, and the catalogue of it."""

from pathlib import Path

import pytest
from distributions import fake_esper
from distributions import site as site

from esper_core.plugin.catalogue import Catalogue
from esper_core.plugin.loader import load


@pytest.fixture
def catalogue(site: Path) -> Catalogue:
    """Everything that the fake `esper-morph` offers."""
    fake_esper(site)
    return load()
