"""An application without a framework, wrapped in Limits, for uvicorn; its bounds come from the environment."""

import asyncio
import gc
import json
import os
from typing import Any
from urllib.parse import parse_qsl

from vocos_onnx.serve.limits import Limits

seen = {"cancelled": 0, "pieces": 0, "bodies": 0}


async def small(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        for _ in range(2):
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
        return
    if scope["type"] == "websocket":
        return await echo(receive, send)
    query = {name: int(value) for name, value in parse_qsl(scope["query_string"].decode())}
    if scope["path"] in ("/healthz", "/readyz"):
        counts = {"held": app.held, "sockets": app.open_sockets, "connections": app.open_connections}
        state = {"working": app.working, "long": app.long, **counts, **seen}
        return await answer(send, json.dumps(state).encode())
    body = (await receive())["body"]
    seen["bodies"] += 1
    try:
        if query.get("hold"):
            scope["limits"].hold(query["hold"])
        if query.get("long"):
            scope["limits"].long()
        await asyncio.sleep(query.get("sleep", 0) / 1000)
        if query.get("fail"):
            raise ValueError("on purpose")
        if query.get("pieces"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(query["pieces"]):
                seen["pieces"] += 1
                await send({"type": "http.response.body", "body": bytes(query["size"]), "more_body": True})
            return await send({"type": "http.response.body", "body": b""})
        await answer(send, bytes(query["size"]) if "size" in query else body)
    except asyncio.CancelledError:
        seen["cancelled"] += 1
        raise


async def echo(receive: Any, send: Any) -> None:
    """Echoes each message of a WebSocket; "fail" raises, and "sleep" takes long."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "fail":
            raise ValueError("on purpose")
        if message.get("text") == "sleep":
            await asyncio.sleep(20)
        await send({"type": "websocket.send", "text": message["text"]})


async def answer(send: Any, body: Any) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = Limits(small, free=("/healthz", "/readyz"), **json.loads(os.environ["BOUNDS"]))
if not os.environ.get("COLLECTS", "yes"):
    gc.disable()
