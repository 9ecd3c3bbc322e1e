"""The fake installation, and a way to call `esper`."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from distributions import Esper, fake_esper
from distributions import site as site

from esper_core.cli import main


@pytest.fixture
def esper(site: Path) -> Esper:
    """Call the command line in this process, with the fake `esper-morph` installed."""
    fake_esper(site)

    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, list(arguments), prog_name="esper")

    return call
