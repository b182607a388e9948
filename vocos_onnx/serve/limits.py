"""Bounds for an HTTP service, whatever its clients do: ``app = Limits(app, ...)``. ASGI, standard library only.

A client may send one byte and wait, never read its answer, send too much, open connections and stay silent, or
disconnect. ``Limits`` wraps the application and enforces the following:

- A request reaches the application only once its whole body has arrived. Until then it takes no place, and only the
  bytes received so far are held.
- The body must arrive within ``body_seconds`` and no slower than ``body_rate``; otherwise the answer is 408.
- The client must read its answer: one that does not read a piece of 64 kB within ``answer_seconds`` is cut off.
  Meanwhile the application's ``send`` waits, so a streamed answer is computed no faster than it is read.
- Request bodies, memory that the application declares (``Account.hold``) and answers waiting to be read share
  ``memory`` bytes. If they run out, the client that has kept the service waiting longest is dropped. If none has for
  longer than ``patience``, the new request is refused with 503 and Retry-After.
- At most ``places`` requests are being worked on or waiting for that; any more get 429 with Retry-After. A place is
  taken when the whole body has arrived and given back when the answer begins, so a slow client cannot keep one.
- When a client disconnects, the work for it is cancelled. A client that has closed only its sending side and would
  still read counts as disconnected: the server cannot tell the two apart.
- The paths in ``free`` (health checks, the files of a page) take no place, do not wait for a body, and are answered
  whatever else is going on.
- Requests that ``admit`` refuses are refused before their body is read.
- An exception in the application becomes a 500 that reveals nothing about it, and one line in the log (the traceback
  is logged at level DEBUG).

An ASGI application cannot see the connections themselves. If the server is uvicorn (its command line, ``uvicorn.run``
or gunicorn's worker), ``Limits`` finds its configuration at startup and adds:

- h11 as the parser, whatever else is installed: it bounds what it buffers, trailers included, and is strict about
  lengths.
- A deadline for headers, ``header_seconds`` from the first byte of a request or from the connection, and a limit of
  16 kB.
- At most ``connections`` at once, of which a quarter is reserved for ``free`` paths; other requests beyond that get
  503. A new connection replaces the first of these that exists: the oldest that has been silent for longer than
  ``patience``; the one whose unfinished body has paused longest, for more than ``PAUSE``; the one whose client has kept
  the service waiting longest, for more than ``patience``; the oldest silent one, if there are many. Otherwise the new
  connection is closed.
- A queue of at most 256 connections not accepted yet (``backlog``), fewer if the process may open few files, since
  uvicorn accepts all of them at once.
- At most a few log lines a minute about what clients cause.
- Small kernel buffers, 256 kB in each direction, since they hold what a client does not read.
- A fifth of the time for input that is expensive to parse (bodies in chunks of one byte, thousands of headers). A
  WebSocket whose message comes in thousands of frames of a few bytes is closed with 1008.
- An orderly shutdown: after SIGTERM no slow client is waited for longer than ``patience``, and everything else ends
  within ``end_seconds`` (this sets uvicorn's ``timeout_graceful_shutdown``, unless it is set already).
- At most ``sockets`` WebSockets; any more get 503. They count as connections, not as requests, and are not closed to
  make room for others. At SIGTERM they are closed with code 1012. Messages that are still arriving, waiting for the
  application, or waiting to be read count toward ``memory``. If it runs out, the client that has kept the service
  waiting longest, or else the new one, is closed with 1013; one that is not reading is cut off. The application bounds
  for how long a client may leave its messages unread; uvicorn's ``ws_max_size``, ``ws_max_queue`` and
  ``ws_ping_interval`` bound the size of messages and set the pings.

With any other server, these are up to that server or a proxy. A ``Limits`` belongs to one event loop; other threads may
only read its counts.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import io
import json
import logging
import re
import select
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, MutableMapping, Sequence
from typing import Any

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PIECE = 1 << 16  # bytes of an answer that are sent at once
HEADERS = 1 << 14  # bytes of headers; h11 has the same bound if they arrive in several reads
BUFFER = 1 << 17  # SO_SNDBUF and SO_RCVBUF, which Linux doubles
READ = 1 << 12  # bytes read from a connection at once; rises to PIECE while they parse quickly
WAITS = 400  # bytes charged for a WebSocket message beside its content, while it waits for the application
FRAMES, FRAME = 1000, 16  # a message in more than FRAMES frames must have at least FRAME bytes in each on average
LINGER = 2.0  # seconds for which a closed WebSocket is read until its client closes it
SUSPECT = 8  # reads of a WebSocket that are measured after one that may have been expensive to parse
PARSE, PARSE_BYTE = 5e-4, 5e-9  # seconds to parse a read, plus seconds a byte; if it takes longer, the next read waits
OVERHEAD = 1 << 17  # bytes charged to a request beside its body, for the buffers of its connection
SWEEP = 0.25  # seconds between checks of the deadlines
PAUSE = 0.25  # seconds without data after which an unfinished body may be dropped for another connection
LINE, LINES_OF_HEAD = 1 << 13, 128  # longest header line in bytes, and most lines, that websockets accepts
LINES = 3  # lines that each logger may log in a minute, at each level from WARNING on
SILENT, PAUSED, SLOW, YOUNG = range(4)  # connections that may be closed for another, in the order of closing
_REFUSED = "limits.refused"  # key in a request's scope: a refusal decided before anything else

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request is refused with this HTTP status and reason.

    ``retry_after``: seconds after which another try may succeed. ``slow``: the client is too slow, or there is no room
    to wait for the rest of its body. ``headers``: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        retry_after: int | None = None,
        *,
        slow: bool = False,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after, self.slow = status, reason, retry_after, slow
        self.headers = headers


class Gone(Exception):
    """The client has disconnected or was cut off, so nothing more can be sent to it."""


class Account:
    """The memory and the place that one request holds. The application finds it as ``scope["limits"]``."""

    def __init__(self, limits: Limits, connection: _Connection | None) -> None:
        self.held = 0  # bytes
        self._limits, self._connection = limits, connection
        self._stage = "body"  # then "work", in which the answer is sent, or "refused"
        self._placed = self._long = False
        # whether it is on one of the connections that are not reserved; whether it was refused as those are all in use
        self._asks = self._turned_away = False
        self._fate: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = limits._now()
        # since when the service has been waiting for the client; None while it is not
        self._since: float | None = self._begun
        self._window, self._window_bytes = self._begun, 0
        self._heard = self._begun  # when the last bytes of the body arrived
        self.gone = asyncio.Event()

    def hold(self, size: int) -> None:
        """Sets the number of bytes the request holds, which at first are those of its body.

        Call it from the event loop: with more before memory is allocated, with less after some has been freed.

        Raises:
            Refused: there is not enough memory now (503), or never will be (413). ``Limits`` sends that to the client,
                unless the answer has begun; any other answer from the application is dropped.
        """
        try:
            self._limits._make_room(self, size)
        except Refused as refused:
            self._fate = self._fate or refused
            raise
        self._resize(size)

    def long(self) -> None:
        """Declares that the work takes long. At most ``long_places`` such requests run, which leaves places for others.

        Raises:
            Refused: there are that many already (429). The client is told as with ``hold``.
        """
        if self._long or not self._placed:
            return
        if self._limits.long >= self._limits.long_places:
            set_by = self._limits.set_by("places")
            self._fate = Refused(429, f"{self._limits.long} long requests are waiting{set_by}: try again", 1)
            raise self._fate
        self._long = True
        self._limits.long += 1

    def set_by(self, name: str) -> str:
        """Same as ``Limits.set_by``."""
        return self._limits.set_by(name)

    def _resize(self, size: int) -> None:
        self._limits.held += size - self.held
        self.held = size

    def _take_place(self) -> None:
        if self._limits.working >= self._limits.places:
            set_by = self._limits.set_by("places")
            raise Refused(429, f"{self._limits.working} requests are waiting{set_by}: try again", 1)
        self._placed = True
        self._limits.working += 1

    def _leave_place(self) -> None:
        self._limits.working -= self._placed
        self._limits.long -= self._long
        self._placed = self._long = False

    def _release(self) -> None:
        self._leave_place()
        self._resize(0)

    def _cut(self, fate: Exception) -> None:
        """Cancels the work for the request and frees what it holds at once. ``fate`` is what ``_run`` then raises."""
        if self._fate is None and self._task is not None and not self._task.done():
            self._fate = fate
            self._release()
            self._task.cancel()

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs the work until it ends or is cut. Raises whatever it raises, or the ``fate`` it was cut with."""
        self._fate = None
        self._task = asyncio.create_task(work)
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:  # by the server, which is shutting down
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1)
            raise
        if self._fate is not None:
            if not self._task.cancelled():
                self._task.exception()  # retrieved, so that asyncio does not log it
            raise self._fate
        self._task.result()

    def _received(self, size: int) -> None:
        self._window_bytes += size
        self._heard = self._limits._now()

    def _paused(self, now: float) -> float | None:
        """Returns since when an unfinished body has paused; None if it is complete or has not paused for long."""
        if self._stage == "work":
            return None
        since = self._heard if self._stage == "body" or self._since is None else self._since
        return since if now - since > PAUSE else None

    def _kept_waiting(self, now: float) -> bool:
        return self._since is not None and now - self._since > self._limits.patience

    def _check(self, now: float) -> None:
        """Cuts the request if a deadline has passed."""
        limits, ending = self._limits, self._limits._ending
        if ending is not None and now - ending > limits.patience and self._kept_waiting(now):
            refused = Refused(503, "the service is ending, try again", 1, slow=True)
            self._cut(refused if self._stage == "body" else Gone())
        elif self._stage == "body":
            if now - self._begun > limits.body_seconds:
                self._cut(Refused(408, f"the body has to come within {limits.body_seconds:g} s", slow=True))
            elif now - self._window > limits.body_window:
                if self._window_bytes < limits.body_rate * limits.body_window:
                    reason = f"the body comes too slowly: {limits.body_rate:g} bytes/s are expected"
                    self._cut(Refused(408, reason, slow=True))
                self._window, self._window_bytes = now, 0
        elif self._stage == "work" and self._since is not None and now - self._since > limits.answer_seconds:
            self._cut(Gone())


class _Incoming:
    """The memory of a WebSocket's messages: one still arriving, those that wait, and those its client has not read."""

    def __init__(self, limits: Limits, count: Callable[[], None], fail: Callable[[int, str], None]) -> None:
        self.held = 0  # bytes
        self._limits, self.count, self._fail = limits, count, fail
        self._coming: float | None = None  # since when a message has been incomplete
        self._unread: float | None = None  # since when the client has not read, so messages to it wait
        limits._incoming.add(self)

    @property
    def _since(self) -> float | None:
        return min((since for since in (self._coming, self._unread) if since is not None), default=None)

    def _kept_waiting(self, now: float) -> bool:
        return (since := self._since) is not None and now - since > self._limits.patience

    def hold(self, size: int) -> None:
        """Like ``Account.hold``, but closes the WebSocket if there is not enough memory."""
        if size > self.held:
            try:
                self._limits._make_room(self, size)
            except Refused as refused:
                self._cut(refused)
                return
        self._limits.held += size - self.held
        self.held = size

    def _cut(self, fate: Exception) -> None:
        self._release()
        if isinstance(fate, Refused):
            self._fail(1009 if fate.status == 413 else 1013, fate.reason)

    def _release(self) -> None:
        self._limits.held -= self.held
        self.held = 0

    def close(self) -> None:
        self._release()
        self._limits._incoming.discard(self)


class _Connection:
    """A connection of uvicorn: its requests, and since when it has had none."""

    def __init__(self, transport: asyncio.Transport, now: float) -> None:
        self.transport = transport
        self.accounts: set[Account] = set()
        self.since = now  # of the last change
        # Since when headers have been awaited. After a request that is from their first byte on; uvicorn's keep-alive
        # timeout covers the time before.
        self.expects: float | None = now
        self.is_late = False  # whether the headers were overdue at the last check
        self.unasked = 0  # bytes received while there was no request
        self.closing: float | None = None
        self.is_socket = False  # a WebSocket that has reached the application, which bounds it from then on

    def received(self, size: int, now: float) -> bool:
        """Counts these bytes. Returns whether the connection may go on."""
        if self.accounts:
            return True
        if self.expects is None:
            self.expects = now
        allowed = self.unasked <= HEADERS  # checked before adding: the read that ends the headers may hold body bytes
        self.unasked += size
        return allowed

    def begin(self, account: Account) -> None:
        self.accounts.add(account)
        self.expects, self.unasked, self.is_late = None, 0, False

    def end(self, account: Account, now: float) -> None:
        self.accounts.discard(account)
        self.since, self.unasked = now, 0

    def speaks(self) -> bool:
        """Returns whether the client has sent something that has not been read yet."""
        plug = self.transport.get_extra_info("socket")
        if plug is None or not hasattr(select, "poll"):  # Windows
            return False
        poll = select.poll()
        poll.register(plug.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def rank(self, now: float, patience: float) -> tuple[int, float] | None:
        """Returns its rank among the connections that may be closed for another, and since when; None if it may not be.

        First come those that have long been silent, then bodies that have paused, then clients that keep the service
        waiting. Last are those that may be about to send: even a health check is silent at first.
        """
        if self.is_socket:
            return None
        if not self.accounts:
            return (SILENT if now - self.since > patience else YOUNG), self.since
        account = next(iter(self.accounts))
        if account._turned_away:
            return SLOW, account._begun
        if (paused := account._paused(now)) is not None:
            return PAUSED, paused
        return (SLOW, account._since) if account._since is not None and account._kept_waiting(now) else None


class Limits:
    """An ASGI application with bounds, which the module's docstring describes.

    Args:
        app: the application. Its ``scope["limits"]`` is the request's ``Account``.
        places: how many requests may be worked on or waiting for that at once.
        long_places: how many of them may be ``long``; by default all.
        max_body: bytes of the largest body; a larger one gets 413.
        memory: bytes that all requests together may hold.
        connections: how many may be open at once; fewer if the process may not open that many files. A quarter is
            reserved for ``free`` paths.
        header_seconds: time limit from the first byte, or from the connection, to the end of the headers.
        body_seconds: time limit from the headers to the end of the body.
        body_rate: least rate of a body in bytes per second, averaged over each ``body_window`` seconds.
        answer_seconds: time limit for a client to read 64 kB of its answer.
        linger: seconds for which the rest of a refused body is read, up to 8 times ``max_body``. A client that is cut
            off while it sends sees a connection error instead of the answer.
        patience: seconds that a client may keep the service waiting when others need the room or the service ends.
        end_seconds: time limit from SIGTERM to the end; Docker waits 10 seconds.
        free: paths that take no place and wait for no memory, for small answers that take no time. A path that ends in
            "/" stands for all that begin with it, except "/" itself.
        sockets: how many WebSockets may be open at once, at most half the connections; None means that half.
        admit: called with a request's scope before its body is read; returns the refusal, or None to admit it. For
            WebSockets it is not called: the application refuses those itself.
        layer: middleware around the application and around refusals, such as CORS headers and counters.
        options: the option that sets each bound, by the bound's name here, such as {"max_body": "--max-body"};
            refusals mention it.

    Attributes:
        working: requests that have a place. ``long``: those of them that are long. ``held``: bytes held.
        open_sockets: open WebSockets. ``open_connections``: open connections, including those of WebSockets.
    """

    def __init__(
        self,
        app: App,
        *,
        places: int = 16,
        long_places: int | None = None,
        max_body: int = 10 << 20,
        memory: int = 256 << 20,
        connections: int = 512,
        header_seconds: float = 10,
        body_seconds: float = 120,
        body_rate: float = 1000,
        body_window: float = 10,
        answer_seconds: float = 20,
        linger: float = 10,
        patience: float = 2,
        end_seconds: float = 8,
        free: Collection[str] = ("/healthz", "/readyz"),
        sockets: int | None = None,
        admit: Callable[[Scope], Refused | None] = lambda scope: None,
        layer: Callable[[App], App] = lambda app: app,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.app, self._layer, self.admit = layer(app), layer, admit
        self.places, self.max_body, self.memory = places, max_body, memory
        self.long_places = places if long_places is None else long_places
        # a quarter of the files is left for connections that are accepted but not counted yet, or closed but not gone
        files = _files() - 64
        self.connections = max(8, min(connections, files * 3 // 4))
        # enough for a burst: a client that finds the queue full retries only after a second
        self.backlog = max(16, min(256, (files - self.connections) // 4))
        self.reserve = max(4, self.connections // 4)
        self.header_seconds, self.body_seconds = header_seconds, body_seconds
        self.body_rate, self.body_window = body_rate, body_window
        self.answer_seconds, self.linger, self.patience = answer_seconds, linger, patience
        self.end_seconds, self.free, self._options = end_seconds, frozenset(free), dict(options or {})
        self._folders = tuple(path for path in free if path.endswith("/") and path != "/")
        most = self.connections // 2
        self.sockets = most if sockets is None else min(sockets, most)
        self.working = self.long = self.held = self.open_sockets = 0
        self._accounts: set[Account] = set()
        self._incoming: set[_Incoming] = set()
        self._connections: dict[asyncio.Transport, _Connection] = {}
        self._ending: float | None = None
        self._tired = 0  # connections that are paused because what they send is expensive to parse
        self._sweeper: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._set_up(receive)
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._socket(scope, receive, send)
        else:
            await self._answer(scope, receive, send)

    @property
    def open_connections(self) -> int:
        return len(self._connections)

    def set_by(self, name: str) -> str:
        """Returns the option that sets this bound, in parentheses for a refusal; "" if it is unknown."""
        return f" ({self._options[name]} of the service)" if name in self._options else ""

    def is_free(self, path: str) -> bool:
        """Returns whether requests for this path take no place."""
        return path in self.free or path.startswith(self._folders)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.open_sockets >= self.sockets:
            await deny(
                scope,
                send,
                Refused(503, f"{self.open_sockets} WebSockets are open{self.set_by('sockets')}: try again", 1),
            )
            return
        if (refused := _too_long(scope["headers"])) is not None:
            await deny(scope, send, refused)
            return
        self.open_sockets += 1
        protocol = getattr(send, "__self__", None)
        transport = getattr(protocol, "transport", None)
        connection = self._connections.get(transport) if transport is not None else None
        if connection is not None:
            connection.is_socket = True
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            if getattr(protocol, "lingers", False) or (transport is not None and transport.is_closing()):
                return  # uvicorn's exception for a client that is gone
            _log_failure(error)
            with contextlib.suppress(Exception):
                await send({"type": "websocket.close", "code": 1011})
        finally:
            self.open_sockets -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = getattr(getattr(send, "__self__", None), "transport", None)  # None if the server is not uvicorn
        connection = self._connections.get(transport) if transport is not None else None
        account = Account(self, connection)
        answer = _Answer(account, send, transport)
        body = _Body(scope, receive)
        self._accounts.add(account)
        if connection is not None:
            connection.begin(account)
        self._watch()
        try:
            try:
                await account._run(self._request(scope, body, answer, account))
            except Refused as refused:
                account._release()
                if answer.begun:
                    raise Gone from None
                account._stage, account._since = "refused", self._now()
                await account._run(self._refuse(refused, scope, body, answer, account))
            except Gone:
                raise
            except Exception as error:
                _log_failure(error)
                account._release()
                if answer.complete:  # the application or its framework has already answered
                    return
                if answer.begun:
                    raise Gone from None
                account._stage, account._since = "refused", self._now()
                failed = Refused(500, "the service has failed at this request")
                await account._run(self._refuse(failed, scope, body, answer, account))
        except (Gone, Refused):
            if transport is None:
                raise ConnectionAbortedError("the client is gone or cut off") from None
            transport.abort()
            for _ in range(3):  # lets the event loop tell the server
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._ending is None or transport is None:
                raise
            transport.abort()  # the server's own deadline has passed, and it logs that itself
        finally:
            account._release()
            account._task = account._fate = None  # their tracebacks would keep the body until a garbage collection
            account.gone.set()
            self._accounts.discard(account)
            if connection is not None:
                connection.end(account, self._now())

    async def _request(self, scope: Scope, body: _Body, answer: _Answer, account: Account) -> None:
        if (refused := _too_long(scope["headers"]) or scope.get(_REFUSED)) is not None:
            raise refused
        scope = {**scope, "limits": account}
        if (refused := self.admit(scope)) is not None:
            raise refused
        if self.is_free(scope["path"]):
            account._stage, account._since = "work", None
            await self.app(scope, _given(b"", account), answer)
            return
        self._keep_reserve(account)
        data = await body.read(self.max_body, account)
        account._stage, account._since = "work", None
        account._take_place()
        watcher = asyncio.create_task(_leave(body, answer, account))
        try:
            given = _given(data, account)
            del data  # only the application holds it now, and may free it
            await self.app(scope, given, answer)
        finally:
            watcher.cancel()

    async def _refuse(self, refused: Refused, scope: Scope, body: _Body, answer: _Answer, account: Account) -> None:
        if not refused.slow and refused.status in (
            401,
            403,
            404,
            405,
            413,
            429,
            503,
        ):  # with any other status, the end of the body may be unknown
            await body.discard(8 * self.max_body, self.linger)
        account._stage = "work"
        saying = self._layer(_saying(refused, closes=not body.complete))
        await saying({**scope, "limits": account}, _given(b"", account), answer)

    def _make_room(self, account: Account | _Incoming, size: int) -> None:
        """Makes sure that the account may hold so many bytes, dropping slow clients if need be. Raises Refused."""
        if size > self.memory:
            raise Refused(
                413,
                f"the request takes {size} bytes, and all requests together may take {self.memory}"
                f"{self.set_by('memory')}",
            )
        now = self._now()
        while self.held - account.held + size > self.memory:
            holders: list[Account | _Incoming] = [*self._accounts, *self._incoming]
            slow = [a for a in holders if a is not account and a.held and a._kept_waiting(now)]
            if not slow:
                set_by = self.set_by("memory")
                raise Refused(503, f"there is not enough memory{set_by} for this request now: try again", 1)
            slowest = min(slow, key=lambda a: a._since or 0)
            reason = "others wait for the memory that this slow request holds, try again"
            says = isinstance(slowest, _Incoming) or slowest._stage == "body"
            slowest._cut(Refused(503, reason, 1, slow=True) if says else Gone())
            if slowest.held:  # it was ending already, so _cut did nothing
                slowest._release()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        if self._sweeper is None or self._sweeper[0] is not loop:
            self._sweeper = loop, loop.call_later(SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeper, now = None, self._now()
        for account in list(self._accounts):
            account._check(now)
        for connection in list(self._connections.values()):
            self._check(connection, now)
        for incoming in list(self._incoming):
            incoming.count()  # nothing else reports that a client has read a small answer
        self._abort_those_gone()
        if self._accounts or self._connections:
            self._watch()

    def _abort_those_gone(self) -> None:
        """Aborts connections whose client closed them while reading is paused, which the event loop does not notice."""
        if not hasattr(select, "poll"):  # Windows
            return
        poll, paused = select.poll(), {}
        for transport in self._connections:
            plug = transport.get_extra_info("socket")
            if plug is not None and not transport.is_closing() and not transport.is_reading():
                paused[plug.fileno()] = transport
                poll.register(plug.fileno(), getattr(select, "POLLRDHUP", 0))  # POLLHUP and POLLERR are implied
        for file, _ in poll.poll(0) if paused else ():
            paused[file].abort()

    def _check(self, connection: _Connection, now: float) -> None:
        if connection.accounts:
            return
        since = None if connection.is_socket else connection.expects
        if since is not None and now - since > self.header_seconds:
            # Abort only if this was so at the last check too, and nothing is left to read. Otherwise the service itself
            # is late: it has not read the data yet, or has not started on what it read.
            if connection.is_late and not connection.speaks():
                connection.transport.abort()
            connection.is_late = not connection.speaks()
        elif connection.transport.is_closing():  # it closes once all data has been sent, which may be never
            connection.closing = now if connection.closing is None else connection.closing
            patience = self.answer_seconds if self._ending is None else self.patience
            if now - connection.closing > patience:
                connection.transport.abort()
                self._connections.pop(connection.transport, None)

    def _admit(self, transport: asyncio.Transport) -> bool:
        now = self._now()
        if len(self._connections) >= self.connections and not self._make_way(list(self._connections.values())):
            return False
        self._connections[transport] = _Connection(transport, now)
        plug = transport.get_extra_info("socket")
        if plug is not None and plug.family in (socket.AF_INET, socket.AF_INET6):
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self._watch()
        return True

    def _make_way(self, connections: list[_Connection]) -> bool:
        """Closes one of these connections, if any may be closed. Returns whether it did."""
        now = self._now()
        ranked = [(rank, c) for c in connections if (rank := c.rank(now, self.patience)) is not None]
        silent = sum(kind in (SILENT, YOUNG) for (kind, _), _ in ranked)
        # spare those that may be about to send, unless so many are silent that they could keep all others out
        if silent <= self.reserve * 3 // 4:
            ranked = [(rank, c) for rank, c in ranked if rank[0] != YOUNG]
        for (kind, _), worst in sorted(ranked, key=lambda pair: pair[0]):
            if kind == SLOW or not worst.speaks() or any(a._kept_waiting(now) for a in worst.accounts):
                worst.transport.abort()
                self._connections.pop(worst.transport, None)
                return True
        return False

    def _keep_reserve(self, account: Account) -> None:
        """Keeps some connections available for free paths. Raises Refused."""
        asking = [c for c in self._connections.values() if any(other._asks for other in c.accounts)]
        if len(asking) >= self.connections - self.reserve and not self._make_way(asking):
            account._turned_away = True
            set_by = self.set_by("connections")
            raise Refused(503, f"{len(asking)} connections have requests{set_by}: try again", 1, slow=True)
        account._asks = True

    def _end(self) -> None:
        if self._ending is None:
            self._ending = self._now()

    def _set_up(self, receive: Receive) -> None:
        """Adds the bounds on connections to uvicorn's configuration, found through the lifespan's ``receive``."""
        self._ending = None
        config = getattr(getattr(receive, "__self__", None), "config", None)
        protocol = getattr(config, "http_protocol_class", None)
        if not (isinstance(protocol, type) and issubclass(protocol, asyncio.Protocol)):
            logger.info("the server is not uvicorn: connections and headers are for the server or a proxy to bound")
            return
        from uvicorn.protocols.http.h11_impl import H11Protocol  # uvicorn depends on h11

        assert config is not None
        config.http_protocol_class = _bounded(protocol if issubclass(protocol, H11Protocol) else H11Protocol, self)
        config.backlog = min(config.backlog, self.backlog)  # uvicorn calls listen, perhaps again, after this
        for name in ("asyncio", "uvicorn.error", __name__, __name__.rpartition(".")[0]):
            known = logging.getLogger(name)
            if not any(isinstance(f, _Sparing) for f in known.filters):
                known.addFilter(_Sparing())
        if config.ws_protocol_class is not None:
            config.ws_protocol_class = _bounded_socket(config.ws_protocol_class, self)
        if config.timeout_graceful_shutdown is None:
            config.timeout_graceful_shutdown = self.end_seconds


class _Body:
    """The body of a request, as it arrives."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        self.complete = self._begun = False
        self._headers = [(name.lower(), value) for name, value in scope["headers"]]

    async def read(self, most: int, account: Account) -> bytes:
        """Reads the whole body. Raises Refused, Gone."""
        lengths = [value for name, value in self._headers if name == b"content-length"]
        if len(lengths) > 1 or (lengths and any(name == b"transfer-encoding" for name, _ in self._headers)):
            # a proxy and the server might disagree where the request ends
            raise Refused(400, "the length of the body is given twice")
        if lengths and not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
            raise Refused(400, f"Content-Length is {_shown(lengths[0])}, expected a number of bytes")
        if lengths and int(lengths[0]) > most:
            raise Refused(
                413, f"the body has {int(lengths[0])} bytes, expected at most {most}{account.set_by('max_body')}"
            )
        account.hold(OVERHEAD)
        data, size, set_by = io.BytesIO(), 0, account.set_by("max_body")
        while not self.complete:
            part = await self._next()
            size += len(part)
            if size > most:
                raise Refused(413, f"the body has more than {most} bytes, the most there may be{set_by}")
            account.hold(OVERHEAD + size)
            account._received(len(part))
            data.write(part)
        return data.getvalue()  # without a copy

    async def discard(self, most: int, seconds: float) -> None:
        """Reads and drops the rest of the body, up to a bound. Raises Gone.

        Reads nothing if the client is still waiting for 100 Continue: reading would make the server send that.
        """
        if not self._begun and any(n == b"expect" and v.lower() == b"100-continue" for n, v in self._headers):
            return
        try:
            async with asyncio.timeout(seconds):
                while not self.complete and most > 0:
                    most -= len(await self._next())
        except TimeoutError:
            pass

    async def _next(self) -> bytes:
        self._begun = True
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise Gone
        self.complete = not message.get("more_body", False)
        part: bytes = message.get("body", b"")
        return part


class _Answer:
    """The application's ``send``: sends up to ``PIECE`` bytes at once, as fast as the client reads, unless refused."""

    def __init__(self, account: Account, send: Send, transport: asyncio.Transport | None) -> None:
        self.begun = self.complete = False
        self._transport = transport
        self._account, self._send = account, send
        self._start: Message | None = None  # kept back until the first body message, so a refusal can still be sent

    async def __call__(self, message: Message) -> None:
        account = self._account
        if account._fate is not None:  # refused by hold or long; Limits answers
            return
        if message["type"] == "http.response.start":
            account._leave_place()
            self._start = message
            return
        if message["type"] != "http.response.body":
            raise RuntimeError(f"{message['type']} is not sent through Limits")
        body, more = message.get("body", b""), message.get("more_body", False)
        if len(body) > max(account.held, PIECE):  # more than the application declared
            account.hold(len(body))
        if self._start is not None:
            start, self._start, self.begun = self._start, None, True
            await self._push(start)
        for first in range(0, max(len(body), 1), PIECE):
            last = first + PIECE >= len(body)
            piece = bytes(body[first : first + PIECE])
            await self._push({"type": "http.response.body", "body": piece, "more_body": more or not last})
        self.complete = not more

    async def _push(self, message: Message) -> None:
        account = self._account
        account._since = account._limits._now()
        if self._transport is not None and self._transport.is_closing():
            account._fate = Gone()
            raise account._fate
        try:
            await self._send(message)
        except Exception:
            if self._transport is None or not self._transport.is_closing():
                raise
            account._fate = Gone()  # uvicorn has closed the connection, since what the client sent next is not HTTP
            raise account._fate from None
        account._since = None


def _saying(refused: Refused, closes: bool) -> App:
    """Returns an application that answers with this refusal."""

    async def say(scope: Scope, receive: Receive, send: Send) -> None:
        data = json.dumps({"error": refused.reason}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data)), *refused.headers]
        if refused.retry_after is not None:
            headers.append((b"retry-after", b"%d" % refused.retry_after))
        if closes:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": refused.status, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    return say


async def deny(scope: Scope, send: Send, refused: Refused) -> None:
    """Refuses a WebSocket before it is accepted, with 403 if the server cannot send any other status. Logs a line."""
    path = scope["path"]
    path = repr(path if len(path) <= 100 else f"{path[:100]}...")
    logger.warning("a WebSocket to %s is refused with %d: %s", path, refused.status, refused.reason)
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"application/json"), *refused.headers]
    if refused.retry_after is not None:
        headers.append((b"retry-after", b"%d" % refused.retry_after))
    await send({"type": "websocket.http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": json.dumps({"error": refused.reason}).encode()})


def _given(data: bytes, account: Account) -> Receive:
    """Returns a ``receive`` that yields the complete body, then waits for the client to disconnect."""
    left = [data]

    async def receive() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        await account.gone.wait()
        return {"type": "http.disconnect"}

    return receive


async def _leave(body: _Body, answer: _Answer, account: Account) -> None:
    """Cuts the request when its client disconnects."""
    while (await body.receive())["type"] != "http.disconnect":
        pass
    if not answer.complete:
        account._cut(Gone())


def _bounded(base: type[asyncio.Protocol], limits: Limits) -> type[asyncio.Protocol]:
    """Returns a subclass of uvicorn's protocol whose connections are admitted and watched by ``limits``."""
    import h11  # uvicorn depends on it

    class Bounded(base):  # type: ignore[valid-type, misc]
        _connection: _Connection | None = None
        _reads = READ

        def connection_made(self, transport: asyncio.Transport) -> None:
            if not limits._admit(transport):
                transport.abort()
                return
            self._connection = limits._connections[transport]
            self._read_at_most(READ)
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            if self._connection is None or self._connection.transport.is_closing():
                return
            if not self._connection.received(len(data), limits._now()):
                self._connection.transport.abort()
                return
            transport, begun = self._connection.transport, time.thread_time()
            try:
                super().data_received(data)
            except Exception as error:  # uvicorn's answer to invalid HTTP can fail in the middle of another answer
                logger.info("a connection is cut off: %s", error)
                transport.abort()
                return
            took = time.thread_time() - begun
            dear = took > PARSE + PARSE_BYTE * len(data)
            self._read_at_most(READ if dear else 2 * self._reads)
            if dear:
                transport.pause_reading()
                limits._tired += 1
                asyncio.get_running_loop().call_later(8 * min(took, 20 * PARSE) * limits._tired, self._go_on)

        def send_400_response(self, msg: str) -> None:
            """Called by uvicorn when h11 has raised an error in the request."""
            error = sys.exc_info()[1]
            status, reason = 400, msg
            if isinstance(error, h11.RemoteProtocolError):
                status, reason = error.error_status_hint, f"this is no request of HTTP/1.1: {str(error)[:200]}"
            data = json.dumps({"error": reason}).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(data))),
                ("connection", "close"),
            ]
            said = h11.Response(status_code=status, headers=headers, reason=http.HTTPStatus(status).phrase)
            for event in (said, h11.Data(data=data), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event))
            self.transport.close()

        def _should_upgrade(self) -> bool:
            if not super()._should_upgrade():
                return False
            self.scope[_REFUSED] = _refused_upgrade(self.scope, self.headers)
            return self.scope[_REFUSED] is None

        def handle_websocket_upgrade(self, event: Any) -> None:
            super().handle_websocket_upgrade(event)
            taken = self.transport.get_protocol()
            if not getattr(taken, "handshake_initiated", True):  # the WebSocket parser rejected it without an answer
                self.transport.abort()

        def _read_at_most(self, size: int) -> None:
            self._reads = min(size, PIECE)
            if self._connection is not None:
                with contextlib.suppress(AttributeError):  # uvloop's transports have no such bound
                    self._connection.transport.max_size = self._reads  # type: ignore[attr-defined]

        def _go_on(self) -> None:
            limits._tired -= 1
            flow = getattr(self, "flow", None)
            transport = self._connection.transport if self._connection is not None else None
            if transport is not None and not transport.is_closing() and not (flow and flow.read_paused):
                transport.resume_reading()

        def connection_lost(self, error: Exception | None) -> None:
            if self._connection is not None:
                limits._connections.pop(self._connection.transport, None)
                super().connection_lost(error)

        def shutdown(self) -> None:
            limits._end()
            super().shutdown()

    return Bounded


def _too_long(headers: Sequence[tuple[bytes, bytes]]) -> Refused | None:
    """The refusal of headers that are too long together, or None."""
    size = sum(len(name) + len(value) for name, value in headers)
    return Refused(431, f"the headers have {size} bytes, expected at most {HEADERS}") if size > HEADERS else None


def _shown(value: bytes) -> str:
    """The beginning of a header's value, as it is safe to be sent back."""
    return repr(value[:40].decode("latin-1")) + (" ..." if len(value) > 40 else "")


def _refused_upgrade(scope: Scope, headers: Sequence[tuple[bytes, bytes]]) -> Refused | None:
    """Returns the refusal of a WebSocket upgrade that the server's WebSocket parser would not accept, else None."""
    if scope["method"] != "GET":
        return Refused(405, f"a WebSocket is opened with GET, not {scope['method'][:20]}", headers=[(b"allow", b"GET")])
    given: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        given.setdefault(name, []).append(value)
    if b"transfer-encoding" in given or set(given.get(b"content-length", [])) - {b"0"}:
        return Refused(400, "a request for a WebSocket has no body: leave Content-Length out")
    size = len(scope["raw_path"]) + len(scope["query_string"])
    if size > LINE - 20:
        return Refused(414, f"the address has {size} bytes, expected at most {LINE - 20} for a WebSocket")
    if len(headers) > LINES_OF_HEAD or any(len(name) + len(value) > LINE - 4 for name, value in headers):
        longest = max(len(name) + len(value) for name, value in headers)
        reason = (
            f"a request for a WebSocket has {len(headers)} headers of up to {longest} bytes, expected at most "
            f"{LINES_OF_HEAD} of up to {LINE - 4} bytes"
        )
        return Refused(431, reason)
    versions, keys = given.get(b"sec-websocket-version", []), given.get(b"sec-websocket-key", [])
    if versions != [b"13"]:
        wanted = [(b"sec-websocket-version", b"13"), (b"upgrade", b"websocket")]
        given_versions = _shown(b", ".join(versions)) if versions else "missing"
        return Refused(426, f"Sec-WebSocket-Version is {given_versions}, expected 13", headers=wanted)
    if len(keys) != 1 or not re.fullmatch(rb"[A-Za-z0-9+/]{22}==", keys[0]):
        return Refused(400, "a request for a WebSocket needs one Sec-WebSocket-Key, of 16 bytes in base64")
    return None


def _bounded_socket(base: type[asyncio.Protocol], limits: Limits) -> type[asyncio.Protocol]:
    """Returns a subclass of uvicorn's WebSocket protocol, which takes over an admitted connection."""
    from uvicorn.protocols.utils import ClientDisconnected

    class BoundedSocket(base):  # type: ignore[valid-type, misc]
        _admitted: asyncio.Transport
        frames: list[bytes | bytearray]  # of the message being received; here one item with all frames so far
        _reads = READ
        on_lost: Callable[[], None] | None = None  # set by the application, to be told even while it is computing

        def connection_made(self, transport: asyncio.Transport) -> None:
            self._admitted = transport
            self._waiting = 0  # bytes of the messages that wait for the application or that it is working on
            self._joined = 0  # frames of the message being received, not counting the first
            self._answer = 0  # bytes of the message being sent, until the transport has taken it
            self._incoming = _Incoming(limits, self._count, self._fail)
            self.lingers = False  # closed, but what the client still sends is read, and dropped
            self._suspect = 0  # reads until its parsing is believed to be cheap
            self._read_at_most(READ)
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            if self.lingers:
                return
            # The CPU time of the thread takes a system call, twice for each chunk of a stream. So it is asked only
            # where the time of the clock, which includes waits for the CPU and the interpreter, was too long before.
            measured = self._suspect > 0
            clock = time.thread_time if measured else time.perf_counter
            begun = clock()
            super().data_received(data)
            self._count()
            took = clock() - begun
            dear = took > PARSE + PARSE_BYTE * len(data)  # for example thousands of empty frames
            self._read_at_most(READ if dear else 2 * self._reads)
            self._suspect = SUSPECT if dear else max(0, self._suspect - 1)
            if dear and measured and not self._is_closing():
                self._admitted.pause_reading()
                limits._tired += 1
                asyncio.get_running_loop().call_later(8 * min(took, 20 * PARSE) * limits._tired, self._go_on)

        def _count(self) -> None:
            """Updates the bytes held for messages, which are none once the connection is closing."""
            coming = len(self.conn.reader.buffer) + (len(self.frames[0]) if self.frames else 0)
            if not coming:
                self._incoming._coming = None
            elif self._incoming._coming is None:
                self._incoming._coming = limits._now()
            unread = self._answer + self._admitted.get_write_buffer_size()
            self._incoming.hold(0 if self._is_closing() else coming + self._waiting + unread)

        def _is_closing(self) -> bool:
            return self.lingers or self._admitted.is_closing()

        def _fail(self, code: int, reason: str) -> None:
            """Closes the WebSocket and drops what it has received."""
            if not self._is_closing():
                self.frames = []
                self.conn.fail(code, reason[:100])
                self.handle_parser_exception()
                if not self.writable.is_set():  # the client is not reading, so unread data would be kept forever
                    self._admitted.abort()

        def handle_parser_exception(self) -> None:
            """Closes the WebSocket with the code of ``conn``.

            If the connection were closed while the client still sends, as uvicorn does, the system would reset it, and
            the client might never see the code. So what comes is read and dropped, until the client closes it.
            """
            sent = self.conn.close_sent
            if sent is None:  # before the application has accepted it
                self._admitted.abort()
                return
            self.queue.put_nowait({"type": "websocket.disconnect", "code": sent.code, "reason": sent.reason})
            self._admitted.write(b"".join(self.conn.data_to_send()))
            if self._admitted.can_write_eof():
                self._admitted.write_eof()  # tells the client to close its side
            self.close_sent = self.lingers = True
            self._count()
            self._tell_lost()
            if not self._admitted.is_reading():
                self._admitted.resume_reading()
            self.close_timer = self.loop.call_later(LINGER, self._admitted.close)

        def handle_cont(self, event: Any) -> None:
            """Joins frames as they arrive: thousands of small ones would take much more memory than their bytes."""
            so_far = self.frames[0] if isinstance(self.frames[0], bytearray) else bytearray(self.frames[0])
            so_far += event.data
            self.frames = [so_far]
            self._joined += 1
            if self._joined > FRAMES and len(so_far) < FRAME * self._joined:
                self._fail(1008, f"a message is in {FRAMES} frames of less than {FRAME} bytes each: send fewer")
                return
            if event.fin:
                self.send_receive_event_to_app()

        def send_receive_event_to_app(self) -> None:
            """Called by uvicorn when a message is complete."""
            data = bytes(self.frames[0])
            if self.curr_msg_data_type == "text":
                try:
                    data.decode()
                except UnicodeDecodeError:  # uvicorn would log a traceback
                    self._fail(1007, "a text message is not UTF-8")
                    return
            self.frames, self._joined = [data], 0
            self._incoming._coming = None
            if not self.close_sent:  # otherwise nobody will receive it
                self._waiting += len(data) + WAITS
            # uvicorn pauses reading at every message until the application has taken it, with two system calls. One
            # message may wait without that: from the second on, reading is paused.
            is_only = not self.read_paused and self.queue.empty()
            self.read_paused |= is_only
            super().send_receive_event_to_app()
            self.read_paused &= not is_only

        async def receive(self) -> Message:
            if self.queue.empty():  # the application has finished with all earlier messages
                self._waiting = 0
                self._count()
            message: Message = await super().receive()
            return message

        def pause_writing(self) -> None:
            self._incoming._unread = limits._now()
            super().pause_writing()

        def resume_writing(self) -> None:
            self._incoming._unread = None
            self._count()
            super().resume_writing()

        async def send(self, message: Message) -> None:
            if self.lingers:
                raise ClientDisconnected
            self._answer = len(message.get("bytes") or message.get("text") or b"")
            self._count()  # before waiting for the client to read earlier messages
            try:
                await super().send(message)
            finally:
                self._answer = 0
            self._count()
            if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
                self.handshake_complete = True  # uvicorn forgets to set it, and then logs an incomplete handshake

        def handle_ping(self) -> None:
            if self.writable.is_set():
                super().handle_ping()
            else:
                self.conn.data_to_send()  # drops the pong: for a client that does not read, pongs would pile up

        def _read_at_most(self, size: int) -> None:
            self._reads = min(size, PIECE)
            with contextlib.suppress(AttributeError):  # uvloop's transports have no such bound
                self._admitted.max_size = self._reads  # type: ignore[attr-defined]

        def _go_on(self) -> None:
            limits._tired -= 1
            if not self._admitted.is_closing() and (self.lingers or not self.read_paused):
                self._admitted.resume_reading()

        def connection_lost(self, error: Exception | None) -> None:
            limits._connections.pop(self._admitted, None)
            self._incoming.close()
            self._incoming.count = lambda: None  # it was a method of this object: breaks the reference cycle
            self.frames = []
            self.conn.parser.close()  # it refers to itself, which would keep all of this until a garbage collection
            self.conn.reader.discard()
            super().connection_lost(error)
            self._tell_lost()

        def _tell_lost(self) -> None:
            on_lost, self.on_lost = self.on_lost, None
            if on_lost is not None:
                on_lost()

        def shutdown(self) -> None:
            limits._end()
            super().shutdown()

    return BoundedSocket


class _Sparing(logging.Filter):
    """Passes a few warnings and errors a minute and counts the rest: otherwise clients could fill a disk with them."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[float, int]] = {}  # by level: start of the current minute, and how many since then

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        now = time.monotonic()
        since, count = self._seen.get(record.levelno, (now, 0))
        if now - since > 60:
            if count > LINES:
                record.msg, record.args = f"{record.getMessage()} (and {count - LINES} more before)", ()
            since, count = now, 0
        self._seen[record.levelno] = since, count + 1
        return count < LINES


def _log_failure(error: Exception) -> None:
    """Logs the type and place of an exception, without its text, which may quote what the client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    logger.error("a request failed: %s%s", type(error).__name__, where)
    logger.debug("it failed with", exc_info=error)


def _files() -> int:
    """Returns how many files and connections the process may open."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
