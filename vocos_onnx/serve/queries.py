"""Checks query parameters: an unknown one is an error rather than ignored."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

from .wording import unknown


def check_query(request: Request, *known: str) -> None:
    """Raises HTTPException if a parameter is unknown to the route or given twice."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise HTTPException(400, f"there is no parameter {unknown(name, known)}")
        if name in seen:
            raise HTTPException(400, f"the parameter {name} is given twice, expected once")
        seen.add(name)
