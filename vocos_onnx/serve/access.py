"""Who may use the service: a bearer token, and pages of which origins."""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from urllib.parse import unquote

from starlette.middleware.cors import CORSMiddleware

from .limits import App, Refused, Scope
from .settings import Settings

OPEN = ("/", "/healthz", "/readyz")  # without a token; the page, which asks for it, and health checks
PAGE = "/page/"
SUBPROTOCOL = "vocos.bearer."  # and the token, as encodeURIComponent writes it: browsers send no headers of WebSockets
EXPOSED = ("Retry-After", "Server-Timing", "X-Vocos-Compute-Ms", "X-Vocos-Model", "X-Vocos-Seconds")


class Access:
    """Refuses who may not use the service, by the scope of a request or of a WebSocket."""

    def __init__(self, settings: Settings) -> None:
        self._token = None if settings.token is None else settings.token.encode()
        self._origins = frozenset(origin.lower() for origin in settings.cors)

    def refusal(self, scope: Scope) -> Refused | None:
        """What a request or a WebSocket is refused with: 403 for a page of another site, 401 for the token.

        The token is in the header Authorization, or in a subprotocol of a WebSocket, ``vocos.bearer.TOKEN``.
        """
        origins, hosts = _values(scope, b"origin"), _values(scope, b"host")
        if origins and not self._is_allowed(origins, hosts):
            return Refused(403, "pages of this origin may not use the service: allow it with --cors")
        if self._token is None or self._is_open(scope):
            return None
        given = _tokens(scope)
        if len(given) == 1 and hmac.compare_digest(given[0], self._token):
            return None
        reason = "a bearer token is needed" if not given else "this is not the bearer token of the service"
        return Refused(401, reason, headers=[(b"www-authenticate", b"Bearer")])

    def cors(self, app: App) -> App:
        """The application with the headers of CORS, if pages of any other site may use it."""
        if not self._origins:
            return app
        return CORSMiddleware(
            app,  # type: ignore[arg-type]
            allow_origins=sorted(self._origins),
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type"),
            expose_headers=EXPOSED,
        )

    def _is_allowed(self, origins: Sequence[str], hosts: Sequence[str]) -> bool:
        if len(origins) > 1:
            return False
        origin = origins[0].lower()
        scheme, _, place = origin.partition("://")
        port = {"http": ":80", "https": ":443"}.get(scheme, "")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        is_own = bool(place) and place in (host, host.removesuffix(port) if port else host)
        return is_own or "*" in self._origins or origin in self._origins

    def _is_open(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        if scope["path"] in OPEN or scope["path"].startswith(PAGE):
            return True
        # what a browser asks before it sends the token
        asks = scope["method"] == "OPTIONS" and _values(scope, b"access-control-request-method")
        return bool(asks and self._origins)


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]


def _tokens(scope: Scope) -> list[bytes]:
    """All that a client gives as its token."""
    found = []
    for value in _values(scope, b"authorization"):
        match = re.fullmatch(r"bearer +(\S+)", value, re.IGNORECASE | re.ASCII)
        found.append("" if match is None else match[1])
    if scope["type"] == "websocket":
        offered = scope.get("subprotocols") or []
        found += [unquote(name.removeprefix(SUBPROTOCOL)) for name in offered if name.startswith(SUBPROTOCOL)]
    return [token.encode("utf-8", "surrogateescape") for token in found]
