"""Access control: the bearer token, and the origins whose pages may use the service."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import parse_qsl, unquote

from starlette.middleware.cors import CORSMiddleware

from vocos_onnx.messages import shown

from .limits import App, Receive, Refused, Scope, Send
from .settings import Settings

OPEN = ("/", "/healthz", "/readyz")  # need no token: the page, which asks the user for it, and health checks
PAGE = "/page/"
SUBPROTOCOL = "vocos.bearer."  # then the token, percent-encoded: browsers cannot set headers on a WebSocket
_WAY = 'the header "Authorization: Bearer TOKEN"'
_WAYS_OF_SOCKETS = f"{_WAY}, or from a browser the subprotocol {SUBPROTOCOL}TOKEN"
EXPOSED = ("Retry-After", "Server-Timing", "X-Vocos-Compute-Ms", "X-Vocos-Model", "X-Vocos-Seconds", "X-Vocos-Warning")


class Access:
    """Decides from the scope of a request or WebSocket whether its client may use the service."""

    def __init__(self, settings: Settings) -> None:
        self._token = None if settings.token is None else settings.token.encode()
        self._origins = frozenset(origin.lower() for origin in settings.cors)
        # Without a token, on a loopback address, the Host of the service's own pages must name this machine. That
        # shuts out a site that has its own name resolve to 127.0.0.1 (DNS rebinding).
        self._is_local = settings.token is None and is_of_this_machine(settings.host)

    def refusal(self, scope: Scope) -> Refused | None:
        """Returns the refusal of a request or WebSocket, or None if it is admitted.

        The status is 403 for a page of another site, and 401 for a missing or wrong token. The token is sent in the
        header Authorization, or for a WebSocket as the subprotocol ``vocos.bearer.TOKEN``.
        """
        origins, hosts = _values(scope, b"origin"), _values(scope, b"host")
        if origins and not self._is_allowed(origins, hosts):
            return Refused(
                403,
                f"pages of {shown(', '.join(origins))} may not use the service: allow that with --cors ORIGIN; where "
                "that is its own address, a proxy before it has to pass the header Host on, which is "
                f"{shown(', '.join(hosts))} here",
            )
        if self._token is None or self._is_open(scope):
            return None
        given = _tokens(scope)
        if len(given) == 1 and hmac.compare_digest(given[0], self._token):
            return None
        return Refused(401, self._why_not(scope, given), headers=[(b"www-authenticate", b"Bearer")])

    def _why_not(self, scope: Scope, given: Sequence[bytes]) -> str:
        """Returns why the tokens sent are not accepted, and how to send the right one."""
        ways = _WAYS_OF_SOCKETS if scope["type"] == "websocket" or scope["path"] == "/v1/stream" else _WAY
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
        if not given and any(name in ("token", "access_token", "bearer") for name, _ in query):
            return f"a bearer token is needed, and it is not read from the address, which logs keep: send {ways}"
        if not given:
            return f"a bearer token is needed: send {ways}"
        if len(given) > 1:
            return f"{len(given)} tokens are given, expected one: send {ways}"
        if any(hmac.compare_digest(value.encode("latin-1"), self._token or b"") for value in self._bare(scope)):
            return f'the header Authorization lacks the word "Bearer" before the token: send {_WAY}'
        if not given[0]:
            return f"the header Authorization holds no bearer token: send {ways}"
        return "this is not the bearer token of the service, which its operator set as VOCOS_TOKEN"

    def _bare(self, scope: Scope) -> list[str]:
        """Returns each value of the header Authorization twice: whole, and without its first word."""
        return [part for value in _values(scope, b"authorization") for part in (value, value.partition(" ")[2].strip())]

    def cors(self, app: App) -> App:
        """Returns the application, with CORS headers added if any other origin is allowed."""
        if not self._origins:
            return app
        with_headers = CORSMiddleware(
            app,
            allow_origins=sorted(self._origins),
            allow_methods=("GET", "POST"),
            allow_headers=("Authorization", "Content-Type"),
            expose_headers=EXPOSED,
        )

        async def chosen(scope: Scope, receive: Receive, send: Send) -> None:
            origins = _values(scope, b"origin") if scope["type"] == "http" else []
            allowed = not origins or self._is_allowed(origins, _values(scope, b"host"))
            # a disallowed origin, even in a preflight, goes to the application, which answers with the reason
            await (with_headers if allowed else app)(scope, receive, send)

        return chosen

    def _is_allowed(self, origins: Sequence[str], hosts: Sequence[str]) -> bool:
        if len(origins) > 1:
            return False
        origin = origins[0].lower()
        scheme, _, place = origin.partition("://")
        port = {"http": ":80", "https": ":443"}.get(scheme, "")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        is_own = bool(port and place) and place.removesuffix(port) == host.removesuffix(port)
        if self._is_local:
            is_own = is_own and is_of_this_machine(re.sub(r":\d*$", "", host).strip("[]"))
        return is_own or "*" in self._origins or origin in self._origins

    def _is_open(self, scope: Scope) -> bool:
        if scope["type"] != "http":
            return False
        if scope["path"] in OPEN or scope["path"].startswith(PAGE):
            return True
        # a CORS preflight, which browsers send without the token
        asks = scope["method"] == "OPTIONS" and _values(scope, b"access-control-request-method")
        return bool(asks and self._origins)


def is_of_this_machine(host: str) -> bool:
    """Whether the host is "localhost", a name below it, or a loopback address."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _values(scope: Scope, name: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key.lower() == name]


def _tokens(scope: Scope) -> list[bytes]:
    """Returns every token that the client sent."""
    found = []
    for value in _values(scope, b"authorization"):
        match = re.fullmatch(r"bearer +(\S+)", value, re.IGNORECASE | re.ASCII)
        found.append("" if match is None else match[1])
    if scope["type"] == "websocket":
        offered = scope.get("subprotocols") or []
        found += [unquote(name.removeprefix(SUBPROTOCOL)) for name in offered if name.startswith(SUBPROTOCOL)]
    return [token.encode("utf-8", "surrogateescape") for token in found]
