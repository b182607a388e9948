"""Bounds for an HTTP service, whatever its clients do: ``app = Limits(app, ...)``. ASGI, standard library only.

A client may send one byte and wait, never read its answer, send too much, open connections and say nothing, or leave.
``Limits`` stands before the application and sees to it that

- a request is handed on when its body is there, whole: until then it has no place, and only its bytes are held;
- the body comes within ``body_seconds`` and not slower than ``body_rate``, else the answer is 408;
- the answer is taken: a client that does not read a piece of 64 kB within ``answer_seconds`` is cut off. The
  application's ``send`` waits meanwhile, so that what is computed piece by piece is computed as fast as it is read;
- bodies, what the application says that it holds (``Account.hold``) and answers that wait have ``memory`` bytes
  together. Where that is not enough, the client that has kept the service waiting longest is dropped, and if none has
  for longer than ``patience``, the new request is refused: 503 with Retry-After;
- at most ``places`` requests are worked on or wait for that: 429 with Retry-After beyond. A place lasts from the whole
  body to the beginning of the answer: no client can hold one by being slow;
- the work for a client that has gone away is cancelled. One that has closed its side only, and would still read, counts
  as gone: the server cannot tell the two apart;
- the paths in ``free`` (health, and the files of a page) take no place, wait for no body and are answered whatever else
  goes on;
- who may not use it (``admit``) is refused before the body is read;
- what the application raises is 500 without a word of it, and one line in the log (its traceback at level DEBUG).

Of the connections themselves an ASGI application sees nothing. Where the server is uvicorn (its command line,
``uvicorn.run`` or gunicorn's worker), ``Limits`` finds its configuration at start-up, and adds

- h11 as its parser, whatever else is installed: it bounds what it keeps, trailers too, and is strict about lengths;

- a deadline for headers, ``header_seconds`` from the first byte of a request or the connection, and 16 kB for them;
- at most ``connections`` at once, of which a quarter is for ``free`` paths: other requests beyond that are 503. A new
  one takes the place of the oldest that has said nothing for ``patience``, then of the body of which nothing has come
  for longest, and longer than ``PAUSE``, then of the one whose client has kept the service waiting longest, and longer
  than ``patience``, then of the oldest of many that say nothing; where there is none, the new one is closed;
- a queue of at most 256 connections that are not accepted yet (``backlog``), fewer where there are few files, since
  uvicorn opens all of them at once;
- a few lines a minute in the log about what clients cause;
- small buffers in the kernel, 256 kB in each direction, since what a client does not read waits there;
- a fifth of the time for what is expensive to parse (bodies in chunks of one byte, thousands of headers), and no
  message of a WebSocket in thousands of frames of a few bytes (it is closed with 1008);
- an end: after SIGTERM no slow client is waited for longer than ``patience``, and all else ends within ``end_seconds``
  (uvicorn's ``timeout_graceful_shutdown``, where that is not set);
- at most ``sockets`` WebSockets (503 beyond), which count as connections and not as requests, and are not closed for
  others. At SIGTERM they are closed with the code 1012. Messages that are still coming, wait for the application or
  wait to be read are of the ``memory``: where there is not enough, the client that has kept the service waiting longest
  is closed with 1013, or the new one; it is cut off where it does not read. For how long it may not read is for the
  application to bound, and the size of a message, and the pings, for uvicorn's ``ws_max_size``, ``ws_max_queue`` and
  ``ws_ping_interval``.

Before another server these are the server's to give, or a proxy's. One ``Limits`` is for one event loop; nothing of
it, but for the numbers it shows, may be used from other threads.
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
HEADERS = 1 << 14  # bytes; h11 has the same bound where they come in pieces
BUFFER = 1 << 17  # SO_SNDBUF and SO_RCVBUF, which Linux doubles
READ = 1 << 12  # bytes that are read of a connection at once, and up to PIECE where they are quickly parsed
WAITS = 400  # bytes that a message of a WebSocket takes beside its content, while it waits for the application
FRAMES, FRAME = 1000, 16  # of a message, and bytes that they have at least on average where there are more
PARSE, PARSE_BYTE = 5e-4, 5e-9  # seconds, and for each byte; what takes longer, such as chunks of one byte, waits
OVERHEAD = 1 << 17  # bytes that a request is charged beside its body: the buffers of its connection
SWEEP = 0.25  # seconds between two looks at the deadlines
PAUSE = 0.25  # seconds after which a body of which nothing comes gives way to another connection
LINE, LINES_OF_HEAD = 1 << 13, 128  # bytes and number of lines of headers that websockets parses for an upgrade
LINES = 3  # of the log in a minute, of each logger and level from WARNING on
SILENT, PAUSED, SLOW, YOUNG = range(4)  # connections that may be closed for another, those first that are closed first
_REFUSED = "limits.refused"  # in the scope of a request: what it is refused with before anything else

logger = logging.getLogger(__name__)


class Refused(Exception):
    """A request is refused: with this HTTP status and reason; ``retry_after`` in seconds where another try may help.

    ``slow``: because of its client's slowness, which is not waited for to send the rest. ``headers`` go with it.
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
    """The client has gone away, or is cut off: nothing can be said to it any more."""


class Account:
    """What one request holds. The application finds it as ``scope["limits"]``."""

    def __init__(self, limits: Limits, connection: _Connection | None) -> None:
        self.held = 0  # bytes
        self._limits, self._connection = limits, connection
        self._stage = "body"  # then "work", which may send; or "refused"
        self._placed = self._long = False
        self._asks = self._turned_away = False  # for what not all connections may be used; since those are in use
        self._fate: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._begun = limits._now()
        # since when the client is what is waited for; None while it is not
        self._since: float | None = self._begun
        self._window, self._window_bytes = self._begun, 0
        self._heard = self._begun  # when something of the body came last
        self.gone = asyncio.Event()

    def hold(self, size: int) -> None:
        """Account for so many bytes from now on, in place of those before: on entry the body's.

        Called from the event loop, before what it is for is allocated, and with less when something has been freed.

        Raises:
            Refused: there is not enough for all (503), or never will be (413). ``Limits`` says so to the client, unless
                the answer has begun: what the application answers in place of it is not sent.
        """
        try:
            self._limits._make_room(self, size)
        except Refused as refused:
            self._fate = self._fate or refused
            raise
        self._resize(size)

    def long(self) -> None:
        """Say that the work takes long: ``long_places`` such requests keep a place at once, so that others find one.

        Raises:
            Refused: there are so many (429), as ``hold`` does.
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
        """As ``Limits.set_by``."""
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
        """End what is done for the request, give back what it holds at once, and say why."""
        if self._fate is None and self._task is not None and not self._task.done():
            self._fate = fate
            self._release()
            self._task.cancel()

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it until it ends or is cut. Raises what it raises, or what it was cut with."""
        self._fate = None
        self._task = asyncio.create_task(work)
        try:
            await asyncio.wait({self._task})
        except asyncio.CancelledError:  # by the server, which ends
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=1)
            raise
        if self._fate is not None:
            if not self._task.cancelled():
                self._task.exception()  # it has been seen
            raise self._fate
        self._task.result()

    def _received(self, size: int) -> None:
        self._window_bytes += size
        self._heard = self._limits._now()

    def _paused(self, now: float) -> float | None:
        """Since when nothing has come of a body that is not complete; None where it is, or that is not long."""
        if self._stage == "work":
            return None
        since = self._heard if self._stage == "body" or self._since is None else self._since
        return since if now - since > PAUSE else None

    def _kept_waiting(self, now: float) -> bool:
        return self._since is not None and now - self._since > self._limits.patience

    def _check(self, now: float) -> None:
        """Cut it where a deadline has passed."""
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
    """What is there of a WebSocket's messages: one still coming, those that wait, and what its client has not read."""

    def __init__(self, limits: Limits, count: Callable[[], None], fail: Callable[[int, str], None]) -> None:
        self.held = 0  # bytes
        self._limits, self.count, self._fail = limits, count, fail
        self._coming: float | None = None  # since when a message has been incomplete
        self._unread: float | None = None  # since when the client has not read, so that its messages wait
        limits._incoming.add(self)

    @property
    def _since(self) -> float | None:
        return min((since for since in (self._coming, self._unread) if since is not None), default=None)

    def _kept_waiting(self, now: float) -> bool:
        return (since := self._since) is not None and now - since > self._limits.patience

    def hold(self, size: int) -> None:
        """As that of ``Account``, but that the WebSocket is closed where there is not enough."""
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
    """A connection of uvicorn: whether, and since when, it has no request."""

    def __init__(self, transport: asyncio.Transport, now: float) -> None:
        self.transport = transport
        self.accounts: set[Account] = set()
        self.since = now  # of the last change
        # since when headers are waited for: after a request from their first byte, until which uvicorn has a deadline
        self.expects: float | None = now
        self.is_late = False  # whether that was too long at the last look
        self.unasked = 0  # bytes that came while there was no request
        self.closing: float | None = None
        self.is_socket = False  # a WebSocket whose application has begun, which bounds it from then on

    def received(self, size: int, now: float) -> bool:
        """Whether it may go on after these bytes."""
        if self.accounts:
            return True
        if self.expects is None:
            self.expects = now
        allowed = self.unasked <= HEADERS  # what comes with the headers, in one read of the socket, is its body
        self.unasked += size
        return allowed

    def begin(self, account: Account) -> None:
        self.accounts.add(account)
        self.expects, self.unasked, self.is_late = None, 0, False

    def end(self, account: Account, now: float) -> None:
        self.accounts.discard(account)
        self.since, self.unasked = now, 0

    def speaks(self) -> bool:
        """Whether it has sent something that has not been read yet."""
        plug = self.transport.get_extra_info("socket")
        if plug is None or not hasattr(select, "poll"):  # Windows
            return False
        poll = select.poll()
        poll.register(plug.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def rank(self, now: float, patience: float) -> tuple[int, float] | None:
        """Where it stands among those that may be closed for another, and since when; None where it may not.

        First are those that have said nothing for long, then bodies that have stopped coming, and clients that keep the
        service waiting; the last are those that may be about to send: a health check, too, says nothing at first.
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
    """An ASGI application with bounds; the module says which.

    Args:
        app: the application. Its ``scope["limits"]`` is the request's ``Account``.
        places: requests that are worked on or wait for it, at once.
        long_places: of them those that said that they are ``long``; by default all.
        max_body: bytes of one body; a larger one is 413.
        memory: bytes of all that is held for requests.
        connections: at once; fewer where the process may not open so many files. A quarter is for ``free`` paths.
        header_seconds: from the first byte, or the connection, to the end of the headers.
        body_seconds: from the headers to the end of the body.
        body_rate: bytes in a second that have to come, on average over each ``body_window`` seconds.
        answer_seconds: in which a client takes 64 kB of its answer.
        linger: seconds in which the rest of a refused body is read, up to 8 ``max_body``: who is cut off while sending
            gets an error, and not the answer.
        patience: seconds that a client may keep the service waiting while others need the room, or the service ends.
        end_seconds: from SIGTERM to the end; Docker waits for 10.
        free: paths without bounds on places and memory: of small answers that take no time. One that ends in "/" is of
            all that begin so.
        sockets: WebSockets at once, at most half of the connections; None for that half.
        admit: is called with the scope of a request before its body is read; what it returns refuses it. WebSockets are
            for the application to refuse.
        layer: what goes around the application, and around refusals too: headers of CORS, counters.
        options: what the operator sets a bound with, by its name here, such as {"max_body": "--max-body"}: refusals
            name it.

    Attributes:
        working: requests that have a place. ``long``: those of them that are long. ``held``: bytes.
        open_sockets: WebSockets. ``open_connections``: connections, those of WebSockets included.
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
        # a quarter of the files for those that are accepted and not here yet, or closed and not gone
        files = _files() - 64
        self.connections = max(8, min(connections, files * 3 // 4))
        # many enough for a burst of them: who finds no room in the queue tries again after a second
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
        self._tired = 0  # connections that wait, since what they send is expensive to parse
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
        """In a refusal: what the operator sets this bound with, in parentheses; "" where that is not known."""
        return f" ({self._options[name]} of the service)" if name in self._options else ""

    def is_free(self, path: str) -> bool:
        """Whether requests for this path take no place."""
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
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        connection = self._connections.get(transport) if transport is not None else None
        if connection is not None:
            connection.is_socket = True
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            if transport is not None and transport.is_closing():  # the client is gone, which uvicorn raises
                return
            _log_failure(error)
            with contextlib.suppress(Exception):
                await send({"type": "websocket.close", "code": 1011})
        finally:
            self.open_sockets -= 1

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        transport = getattr(getattr(send, "__self__", None), "transport", None)  # uvicorn's, or none
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
                if answer.complete:  # the application, or its framework, has said it
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
            for _ in range(3):  # until the server has been told
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            if self._ending is None or transport is None:
                raise
            transport.abort()  # the server has waited long enough, and says so itself
        finally:
            account._release()
            account._task = account._fate = None  # whose tracebacks would keep the body until a collection
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
            del data  # the application's alone: it may let it go
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
        ):  # of others the end may not be known
            await body.discard(8 * self.max_body, self.linger)
        account._stage = "work"
        saying = self._layer(_saying(refused, closes=not body.complete))
        await saying({**scope, "limits": account}, _given(b"", account), answer)

    def _make_room(self, account: Account | _Incoming, size: int) -> None:
        """So that the account may hold so many bytes. Raises Refused."""
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
            if slowest.held:  # it is ending anyway, and will give back what it holds
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
            incoming.count()  # what has been read of a small answer nothing else tells
        self._abort_those_gone()
        if self._accounts or self._connections:
            self._watch()

    def _abort_those_gone(self) -> None:
        """Of the connections that are not read now, so that the event loop does not see their end."""
        if not hasattr(select, "poll"):  # Windows
            return
        poll, paused = select.poll(), {}
        for transport in self._connections:
            plug = transport.get_extra_info("socket")
            if plug is not None and not transport.is_closing() and not transport.is_reading():
                paused[plug.fileno()] = transport
                poll.register(plug.fileno(), getattr(select, "POLLRDHUP", 0))  # and POLLHUP and POLLERR, as always
        for file, _ in poll.poll(0) if paused else ():
            paused[file].abort()

    def _check(self, connection: _Connection, now: float) -> None:
        if connection.accounts:
            return
        since = None if connection.is_socket else connection.expects
        if since is not None and now - since > self.header_seconds:
            # else it is the service that is late: it has not read what is there, or not begun with what it has read
            if connection.is_late and not connection.speaks():
                connection.transport.abort()
            connection.is_late = not connection.speaks()
        elif connection.transport.is_closing():  # when what waits for the client has been sent: perhaps never
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
        """Whether one of these could be closed."""
        now = self._now()
        ranked = [(rank, c) for c in connections if (rank := c.rank(now, self.patience)) is not None]
        silent = sum(kind in (SILENT, YOUNG) for (kind, _), _ in ranked)
        # not one that may be about to send, unless many have come after it: they could keep all others out
        if silent <= self.reserve * 3 // 4:
            ranked = [(rank, c) for rank, c in ranked if rank[0] != YOUNG]
        for (kind, _), worst in sorted(ranked, key=lambda pair: pair[0]):
            if kind == SLOW or not worst.speaks() or any(a._kept_waiting(now) for a in worst.accounts):
                worst.transport.abort()
                self._connections.pop(worst.transport, None)
                return True
        return False

    def _keep_reserve(self, account: Account) -> None:
        """So that free paths find a connection. Raises Refused."""
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
        """Put the bounds on connections into uvicorn's configuration, which the lifespan's ``receive`` belongs to."""
        self._ending = None
        config = getattr(getattr(receive, "__self__", None), "config", None)
        protocol = getattr(config, "http_protocol_class", None)
        if not (isinstance(protocol, type) and issubclass(protocol, asyncio.Protocol)):
            logger.info("the server is not uvicorn: connections and headers are for the server or a proxy to bound")
            return
        from uvicorn.protocols.http.h11_impl import H11Protocol  # h11 comes with uvicorn

        assert config is not None
        config.http_protocol_class = _bounded(protocol if issubclass(protocol, H11Protocol) else H11Protocol, self)
        config.backlog = min(config.backlog, self.backlog)  # it listens, again or first, after this
        for name in ("asyncio", "uvicorn.error", __name__, __name__.rpartition(".")[0]):
            known = logging.getLogger(name)
            if not any(isinstance(f, _Sparing) for f in known.filters):
                known.addFilter(_Sparing())
        if config.ws_protocol_class is not None:
            config.ws_protocol_class = _bounded_socket(config.ws_protocol_class, self)
        if config.timeout_graceful_shutdown is None:
            config.timeout_graceful_shutdown = self.end_seconds


class _Body:
    """The body of a request, as it comes."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.receive = receive
        self.complete = self._begun = False
        self._headers = [(name.lower(), value) for name, value in scope["headers"]]

    async def read(self, most: int, account: Account) -> bytes:
        """All of it. Raises Refused, and Gone."""
        lengths = [value for name, value in self._headers if name == b"content-length"]
        if len(lengths) > 1 or (lengths and any(name == b"transfer-encoding" for name, _ in self._headers)):
            # a proxy may see another end of the request than the server does
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
        """The rest of it, up to a bound. Raises Gone.

        Nothing of one that the client asks leave for (Expect: 100-continue): to read it would be to give that.
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
    """``send`` for the application: in pieces, while the client takes them, unless the request has been refused."""

    def __init__(self, account: Account, send: Send, transport: asyncio.Transport | None) -> None:
        self.begun = self.complete = False
        self._transport = transport
        self._account, self._send = account, send
        self._start: Message | None = None  # until there is something after it, a refusal can still be said

    async def __call__(self, message: Message) -> None:
        account = self._account
        if account._fate is not None:  # hold or long refused it: the middleware says so
            return
        if message["type"] == "http.response.start":
            account._leave_place()
            self._start = message
            return
        if message["type"] != "http.response.body":
            raise RuntimeError(f"{message['type']} is not sent through Limits")
        body, more = message.get("body", b""), message.get("more_body", False)
        if len(body) > max(account.held, PIECE):  # more than the application said
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
            account._fate = Gone()  # uvicorn has closed it, since what came then is not HTTP
            raise account._fate from None
        account._since = None


def _saying(refused: Refused, closes: bool) -> App:
    """The application that answers with a refusal."""

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
    """Refuse a WebSocket before it is accepted; 403 where the server cannot say anything else. Logs a line."""
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
    """``receive`` of a body that is there, and then of the client's going away."""
    left = [data]

    async def receive() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        await account.gone.wait()
        return {"type": "http.disconnect"}

    return receive


async def _leave(body: _Body, answer: _Answer, account: Account) -> None:
    """Cut the request when its client goes away."""
    while (await body.receive())["type"] != "http.disconnect":
        pass
    if not answer.complete:
        account._cut(Gone())


def _bounded(base: type[asyncio.Protocol], limits: Limits) -> type[asyncio.Protocol]:
    """uvicorn's protocol, whose connections are admitted, watched, and told of the end."""
    import h11  # which is there where uvicorn is

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
            except Exception as error:  # uvicorn's answer to what is not HTTP can fail, in the middle of another one
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
            """Called where h11 has raised what is wrong with the request."""
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
            if not getattr(taken, "handshake_initiated", True):  # its parser has another opinion, and says nothing
                self.transport.abort()

        def _read_at_most(self, size: int) -> None:
            self._reads = min(size, PIECE)
            if self._connection is not None:
                with contextlib.suppress(AttributeError):  # uvloop's transports read what there is
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
    """What a request is refused with that asks for a WebSocket, and which no parser of WebSockets takes."""
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
    """uvicorn's protocol of WebSockets, which takes over a connection that was admitted."""

    class BoundedSocket(base):  # type: ignore[valid-type, misc]
        _admitted: asyncio.Transport
        frames: list[bytes | bytearray]  # of a message that is coming; here only one, of all that has come
        _reads = READ
        on_lost: Callable[[], None] | None = None  # of the application, which may be in the middle of something

        def connection_made(self, transport: asyncio.Transport) -> None:
            self._admitted = transport
            self._waiting = 0  # bytes of the messages that wait for the application, or are in its hands
            self._joined = 0  # frames of a message that is coming, but for its first
            self._answer = 0  # bytes of what it sends, until the transport has that
            self._incoming = _Incoming(limits, self._count, self._fail)
            self._read_at_most(READ)
            super().connection_made(transport)

        def data_received(self, data: bytes) -> None:
            begun = time.thread_time()
            super().data_received(data)
            self._count()
            took = time.thread_time() - begun
            dear = took > PARSE + PARSE_BYTE * len(data)  # as of thousands of empty frames
            self._read_at_most(READ if dear else 2 * self._reads)
            if dear and not self._admitted.is_closing():
                self._admitted.pause_reading()
                limits._tired += 1
                asyncio.get_running_loop().call_later(8 * min(took, 20 * PARSE) * limits._tired, self._go_on)

        def _count(self) -> None:
            """Hold what there is of messages, if it is still wanted."""
            coming = len(self.conn.reader.buffer) + (len(self.frames[0]) if self.frames else 0)
            if not coming:
                self._incoming._coming = None
            elif self._incoming._coming is None:
                self._incoming._coming = limits._now()
            unread = self._answer + self._admitted.get_write_buffer_size()
            self._incoming.hold(0 if self._admitted.is_closing() else coming + self._waiting + unread)

        def _fail(self, code: int, reason: str) -> None:
            """Close it, and forget what it has sent."""
            if not self._admitted.is_closing():
                self.frames = []
                self.conn.fail(code, reason[:100])
                self.handle_parser_exception()
                if not self.writable.is_set():  # what has not been read would be kept, for as long as it is not
                    self._admitted.abort()

        def handle_parser_exception(self) -> None:
            if self.conn.close_sent is None:  # before the application has accepted it
                self._admitted.abort()
            else:
                super().handle_parser_exception()

        def handle_cont(self, event: Any) -> None:
            """Frames are joined as they come: thousands of small ones would take much more than their bytes."""
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
            """A message is complete."""
            data = bytes(self.frames[0])
            if self.curr_msg_data_type == "text":
                try:
                    data.decode()
                except UnicodeDecodeError:  # of which uvicorn logs a traceback
                    self._fail(1007, "a text message is not UTF-8")
                    return
            self.frames, self._joined = [data], 0
            self._incoming._coming = None
            if not self.close_sent:  # else nobody waits for it
                self._waiting += len(data) + WAITS
            super().send_receive_event_to_app()

        async def receive(self) -> Message:
            if self.queue.empty():  # then the application has done with all before
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
            self._answer = len(message.get("bytes") or message.get("text") or b"")
            self._count()  # before it waits until the client has read what was sent before
            try:
                await super().send(message)
            finally:
                self._answer = 0
            self._count()
            if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
                self.handshake_complete = True  # which uvicorn forgets, and then logs that it is not

        def handle_ping(self) -> None:
            if self.writable.is_set():
                super().handle_ping()
            else:
                self.conn.data_to_send()  # who does not read gets no answers, which would pile up

        def _read_at_most(self, size: int) -> None:
            self._reads = min(size, PIECE)
            with contextlib.suppress(AttributeError):  # uvloop's transports read what there is
                self._admitted.max_size = self._reads  # type: ignore[attr-defined]

        def _go_on(self) -> None:
            limits._tired -= 1
            if not self._admitted.is_closing() and not self.read_paused:
                self._admitted.resume_reading()

        def connection_lost(self, error: Exception | None) -> None:
            limits._connections.pop(self._admitted, None)
            self._incoming.close()
            self._incoming.count = lambda: None  # which refers to this
            self.frames = []
            self.conn.parser.close()  # which refers to itself, so that all of this would wait for a collection
            self.conn.reader.discard()
            super().connection_lost(error)
            if self.on_lost is not None:
                self.on_lost()
                self.on_lost = None

        def shutdown(self) -> None:
            limits._end()
            super().shutdown()

    return BoundedSocket


class _Sparing(logging.Filter):
    """A few warnings and errors in a minute, and how many there were else: clients could fill a disk with them."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[float, int]] = {}  # of a level: since when, and how many since

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
    """Where it was, without its text, which may hold what the client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    logger.error("a request failed: %s%s", type(error).__name__, where)
    logger.debug("it failed with", exc_info=error)


def _files() -> int:
    """Files and connections that the process may open."""
    try:
        import resource
    except ImportError:  # Windows
        return 512
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft
