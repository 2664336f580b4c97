"""Folders with small apps in them."""

import pytest

from tests.cli import FLASK, WRAPPED


@pytest.fixture
def shop(tmp_path):
    """A folder with a Flask app in `shop.py`."""
    (tmp_path / "shop.py").write_text(FLASK + WRAPPED)
    return tmp_path
