"""Tables that several files of tests read."""

import pytest
from target_tables import COLUMNS, VIEWS, make

from hf_abkd.data.table import row_blocks


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two samples."""
    monkeypatch.setattr(row_blocks, "_BLOCK_BYTES", 2 * VIEWS * (20 + sum(column.row_bytes for column in COLUMNS)))


@pytest.fixture
def table(tmp_path, small_blocks):
    return make(tmp_path / "table", files={"preprocessor_config.json": "{}\n"})
