"""Fixtures for tests of the stages."""

import pytest
from support.search_printing import Search


@pytest.fixture
def search() -> Search:
    """A fresh search: the journal had nothing."""
    made = Search()
    made.progress.replayed()
    return made
