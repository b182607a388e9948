"""Layouts of other exporters pass the check when written by the installed torch; a new release may write others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.foreign.check import assert_equals_torch
from tests.foreign.make import LAYOUTS, TINY_STATIC, Layout, make, sized


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: Path(layout.path).stem)
def test_layouts_as_this_torch_writes_them(tmp_path: Path, layout: Layout) -> None:
    make(tmp_path, sized(layout, is_tiny=True), TINY_STATIC)
    assert_equals_torch(tmp_path / layout.path)
