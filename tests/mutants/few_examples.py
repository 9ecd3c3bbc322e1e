"""A pytest plugin for runs against mutants: few examples, the same ones every time, nothing written down."""

import pytest
from hypothesis import HealthCheck, Phase, settings

EXAMPLES = 10
"""Examples of every property; a property that needs more to see a mutant is a weak one."""

ASKED = "_hypothesis_internal_use_settings"
"""Where hypothesis keeps the settings of a test."""

settings.register_profile(
    "mutants",
    database=None,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
    print_blob=False,
    suppress_health_check=(HealthCheck.too_slow,),  # a busy machine kills no mutant
)
settings.load_profile("mutants")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Cut down the examples that tests ask for themselves; a profile only speaks for those that do not."""
    for item in items:
        test = getattr(item, "obj", None)
        asked = getattr(test, ASKED, None)
        if asked is not None:
            setattr(test, ASKED, settings(asked, max_examples=min(asked.max_examples, EXAMPLES)))
