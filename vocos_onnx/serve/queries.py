"""The parameters of a request's address: what a route does not know is no parameter, and not ignored."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

from .wording import unknown


def check_query(request: Request, *known: str) -> None:
    """Raises HTTPException for a parameter that the route does not know, or that is given twice."""
    seen: set[str] = set()
    for name, _ in request.query_params.multi_items():
        if name not in known:
            raise HTTPException(400, f"there is no parameter {unknown(name, known)}")
        if name in seen:
            raise HTTPException(400, f"the parameter {name} is given twice, expected once")
        seen.add(name)
