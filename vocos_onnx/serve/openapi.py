"""The OpenAPI 3.1 description of the routes, served at /openapi.json."""

from __future__ import annotations

from typing import Any

from vocos_onnx.mels import CONVENTIONS
from vocos_onnx.version import __version__

from .access import SUBPROTOCOL
from .answers import FORMATS, TOKENS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_NO_PARAMETER = "The query has a parameter, and this path takes none"
_ROWS: Schema = {"type": "array", "minItems": 1}


def description(*, needs_token: bool = False) -> Schema:
    """Returns the document. ``needs_token``: whether the service requires a bearer token."""
    document: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "vocos-onnx",
            "version": __version__,
            "description": "The service turns tokens and mels into audio, and recordings into tokens and back. Errors "
            "are JSON with the reason. A parameter that a route does not know is refused, and so is one that is given "
            "twice. /v1/stream is a WebSocket, whose messages are described at its path.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/": {
                "get": _operation(
                    "page",
                    "The page to try the models with",
                    {"200": _content("The page", "text/html", _TEXT)},
                    is_open=True,
                )
            },
            "/page/{file}": {
                "get": _operation(
                    "pageFile",
                    "A file of the page",
                    {"200": {"description": "The file"}, "404": _error("There is no such file")},
                    [_in_path("file", "Name of the file")],
                    is_open=True,
                )
            },
            "/healthz": {
                "get": _operation(
                    "healthz",
                    "Whether the service is alive",
                    {"200": _json("The service is alive", _of("Health"))},
                    is_open=True,
                )
            },
            "/readyz": {
                "get": _operation(
                    "readyz",
                    "Whether requests may be sent to the service",
                    {
                        "200": _json("Requests may be sent", _of("Readiness")),
                        "503": _json(
                            "The default model is not loaded, the queue is full, or the service ends", _of("Readiness")
                        )
                        | {"headers": {"Retry-After": _header(_INTEGER, "Seconds after which to try again")}},
                    },
                    is_open=True,
                )
            },
            "/metrics": {
                "get": _operation(
                    "metrics", "Counters for Prometheus", {"200": _content("The counters", "text/plain", _TEXT)}
                )
            },
            "/openapi.json": {
                "get": _operation("openapi", "This description", {"200": _json("This description", {"type": "object"})})
            },
            "/v1/models": {
                "get": _operation(
                    "listModels",
                    "The models, loaded or not",
                    {
                        "200": _json("The models", _of("Models")),
                        "400": _error(_NO_PARAMETER),
                    },
                )
            },
            "/v1/samples": {
                "get": _operation(
                    "listSamples",
                    "The bundled recordings",
                    {"200": _json("The recordings", _of("Samples")), "400": _error(_NO_PARAMETER)},
                )
            },
            "/v1/samples/{name}": {
                "get": _operation(
                    "getSample",
                    "A bundled recording",
                    {
                        "200": _content("The recording", "audio/wav", _binary()),
                        "400": _error(_NO_PARAMETER),
                        "404": _error("There is no such recording"),
                    },
                    [_in_path("name", "Name of a recording, one of those in /v1/samples")],
                )
            },
            "/v1/decode": {"post": _decode()},
            "/v1/resynth": {"post": _resynth()},
            "/v1/encode": {"post": _encode()},
            "/v1/stream": {
                "get": _operation(
                    "stream",
                    "A WebSocket: chunks of tokens or mels come in, and the audio of each goes out",
                    {
                        "101": {"description": "The WebSocket is open, and waits for the message start"},
                        "400": _error("The query has a parameter: what a stream is set by is in the first message"),
                        "426": _json("The request asks for no WebSocket", _of("NoWebSocket")),
                        "503": _error("As many WebSockets are open as may be, or the service ends")
                        | {"headers": {"Retry-After": _header(_INTEGER, "Seconds after which to try again")}},
                    },
                )
                | {"description": _PROTOCOL}
            },
        },
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The header Authorization: Bearer TOKEN. A WebSocket of a browser, which can send "
                    f"no headers, offers the subprotocol {SUBPROTOCOL}TOKEN instead, with the token as "
                    "encodeURIComponent writes it. A token in the address is not read.",
                }
            },
        },
    }
    if needs_token:
        document["security"] = [{"token": []}]
    return document


def _decode() -> Schema:
    parameters = [
        _query("model", _TEXT, "Name of the model, of those in /v1/models; by default the first"),
        _query(
            "bandwidth",
            _NUMBER,
            "One of the model's bandwidths, in kbps. The first codebooks of the tokens are decoded, as many as this "
            "bandwidth has; there may be more.",
        ),
        _query(
            "bandwidth_id",
            _INTEGER,
            "Index of a bandwidth of the model, which has as many codebooks as the tokens. It follows from them where "
            "it is left out, and cannot be given together with bandwidth.",
        ),
        _query(
            "mels_from",
            {"enum": list(CONVENTIONS)},
            "System that made the mels. By default they are as the model has them.",
        ),
        _query("key", _TEXT, "Name of the array in an .npz that holds several"),
        *_audio_parameters(),
    ]
    body = {
        "application/json": {"schema": _of("Arrays")},
        "application/octet-stream": {"schema": _binary()},
        "application/x-npz": {"schema": _binary()},
        "application/x-npy": {"schema": _binary()},
    }
    text = (
        "The body holds tokens (codebooks, frames) or mels (channels, frames): it is JSON, a .npz as /v1/encode "
        "answers with, or a .npy. The number of codebooks has to be that of a bandwidth of the model. Tokens that name "
        "their codec are decoded by a model of that codec alone."
    )
    return _work("decode", "Tokens or mels to audio", text, parameters, body, _audio())


def _resynth() -> Schema:
    parameters = [
        _query("model", _TEXT, "Name of the model, of those in /v1/models; by default the first"),
        _query("bandwidth", _NUMBER, "One of the model's bandwidths, in kbps; by default 6. A mel model takes none."),
        *_audio_parameters(),
    ]
    text = (
        "The body is a recording of any kind, rate and number of channels, which goes through tokens or mels and back."
    )
    return _work("resynth", "A recording through a model and back", text, parameters, _recording(), _audio())


def _encode() -> Schema:
    parameters = [
        _query("model", _TEXT, "Name of a codec, of those in /v1/models; by default the first model"),
        _query("bandwidth", _NUMBER, "One of the model's bandwidths, in kbps; by default 6"),
        _query("format", {"enum": list(TOKENS)}, "By default what the header Accept asks for, else npz"),
    ]
    answer = _content("The tokens", TOKENS["npz"].media, _binary())
    answer["content"]["application/json"] = {"schema": _of("Tokens")}
    answer["headers"] = _result_headers()
    text = "The body is a recording of any kind, rate and number of channels, of which tokens are made."
    return _work("encode", "A recording to tokens", text, parameters, _recording(), answer)


def _work(name: str, summary: str, text: str, parameters: list[Schema], body: Schema, answer: Schema) -> Schema:
    again = {"headers": {"Retry-After": _header(_INTEGER, "Seconds after which to try again")}}
    answers = {
        "200": answer,
        "400": _error("The body or a parameter is wrong, or there is no such parameter"),
        "404": _error("There is no such model; the reason lists those there are"),
        "406": _error("No format that the service has is accepted"),
        "408": _error("The body has come too slowly"),
        "413": _error("The body is too large, or takes too much memory"),
        "415": _error("The body is of another kind, or compressed (Content-Encoding)"),
        "429": _error("Too many requests are waiting") | again,
        "500": _error("The service has failed"),
        "503": _error("There is no memory or room for it now, the model cannot be loaded, or the service ends") | again,
    }
    made = _operation(name, summary, answers, parameters)
    return made | {"description": text, "requestBody": {"required": True, "content": body}}


def _operation(
    name: str, summary: str, answers: Schema, parameters: list[Schema] | None = None, *, is_open: bool = False
) -> Schema:
    answers = dict(answers) | {"403": _error("Asked by a page of another origin")}
    if not is_open:
        answers["401"] = _error("The bearer token is missing or wrong; the reason tells how to send it")
    made: Schema = {"operationId": name, "summary": summary, "responses": dict(sorted(answers.items()))}
    if parameters:
        made["parameters"] = parameters
    if is_open:
        made["security"] = []
    return made


def _audio_parameters() -> list[Schema]:
    return [
        _query("format", {"enum": list(FORMATS)}, "By default what the header Accept asks for, else wav"),
        _query("stream", {"type": "boolean", "default": False}, "Whether audio is sent while it is made"),
    ]


def _audio() -> Schema:
    content = {one.media: {"schema": _binary()} for one in FORMATS.values()}
    return {
        "description": "The audio, mono and at the model's sample rate. PCM (audio/pcm) has no header: its samples are "
        "16-bit integers, signed and little-endian, and Content-Type names their rate. A WAV that is streamed has "
        "0xFFFFFFFF in place of its sizes, which are not known yet.",
        "content": content,
        "headers": _result_headers(),
    }


def _recording() -> Schema:
    return {media: {"schema": _binary()} for media in ("audio/*", "application/octet-stream")}


def _result_headers() -> Schema:
    return {
        "X-Vocos-Model": _header(_TEXT, "The model's name"),
        "X-Vocos-Seconds": _header(_NUMBER, "Seconds of audio, where they are known"),
        "X-Vocos-Warning": _header(_TEXT, "That tokens name no codec, and as whose they were decoded; else absent"),
        "X-Vocos-Compute-Ms": _header(
            _NUMBER, "Milliseconds that were computed for the answer; absent where it is streamed"
        ),
        "Server-Timing": _header(_TEXT, "The same number for browsers, as compute;dur=MILLISECONDS"),
    }


def _query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": text}


def _in_path(name: str, text: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _TEXT, "description": text}


def _header(schema: Schema, text: str) -> Schema:
    return {"schema": schema, "description": text}


def _binary() -> Schema:
    return {"type": "string", "format": "binary"}


def _content(text: str, media: str, schema: Schema) -> Schema:
    return {"description": text, "content": {media: {"schema": schema}}}


def _json(text: str, schema: Schema) -> Schema:
    return _content(text, "application/json", schema)


def _error(text: str) -> Schema:
    return _json(text, _of("Error"))


def _of(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: str, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required.split()}


def _or_null(kind: str, **more: Any) -> Schema:
    return {"type": [kind, "null"], **more}


_PROTOCOL = """\
All that is needed to write a client is here; docs/guides/service.md has the same with examples.

1. The client sends a text message, JSON: `{"type": "start", "kind": "tokens", "codebooks": 8}`, or
   `{"type": "start", "kind": "mels"}`. Other keys are optional: `model`, a name in /v1/models (by default the first);
   `dtype`, the type of the numbers in a chunk: `uint16` (the default), `uint8`, `int16`, `int32` or `int64` of tokens,
   `float32` (the default), `float16` or `float64` of mels; `bandwidth_id` or `bandwidth` of tokens, which has to be the
   one that has so many codebooks; `channels` of mels, and `mels_from`, the system that made them; `codec` and
   `codebooks_sha256` of the tokens, which are then checked; `format` of the audio: `s16le` (the default) or `f32le`.
2. The service answers `{"type": "started", ...}` with `model`, `sample_rate`, `hop_length`, `delay_frames`,
   `delay_samples`, `codebooks` or `channels`, `dtype`, `frame_bytes`, `frame` (in words, what a frame is) and `format`.
3. The client sends binary messages, each of them one chunk: whole frames, one after another, up to 5 s of audio. A
   frame is `codebooks` or `channels` numbers of `dtype`, little-endian; of an array (codebooks, frames) these are the
   bytes of its transpose.
4. Each chunk is answered by one binary message with audio, mono and in `format`. It is empty while the look-ahead of
   `delay_frames` frames fills.
5. The client sends `{"type": "flush"}`. The service answers with a binary message, the rest of the audio, and with
   `{"type": "end", "frames": ..., "samples": ...}`. Another `start` may follow.

What is wrong is answered with `{"type": "error", "error": REASON, "code": CODE}`, after which the connection is closed
with that code: 1003 (a message of the wrong kind), 1007 (wrong data), 1008 (a message out of order, or another model),
1009 (a message or chunk that is too large), 1011 (the service has failed), 1012 (the service ends), 1013 (there is no
room now: try again), 4408 (nothing has come, or the audio has not been read, for too long)."""
_CODEC = {
    "codec": _or_null("string", description="Name of the codec that makes the tokens"),
    "codebooks_sha256": _or_null(
        "string",
        description="SHA-256 of codebooks: of all in /v1/models, of the first ones, as many as there are, with tokens",
    ),
}
_SCHEMAS: Schema = {
    "Error": _object("error", error={"type": "string", "description": "The reason"}),
    "NoWebSocket": _object(
        "error",
        error={"type": "string", "description": "The reason"},
        first_message={"type": "object", "description": "An example of the message start"},
        protocol={"type": "string", "description": "The messages in words"},
        documentation={"type": "string", "description": "Where the documentation has more"},
    ),
    "Health": _object("status", status={"const": "ok"}),
    "Readiness": _object(
        "status requests held_bytes",
        status={"enum": ["ok", "loading", "full", "ending"]},
        requests={"type": "integer", "description": "Requests that are worked on or wait for it"},
        held_bytes={"type": "integer", "description": "Bytes that are held for requests"},
    ),
    "Models": _object("default models", default=_TEXT, models={"type": "array", "items": _of("Model")}),
    "Model": {
        "description": "A model. Of one that is not loaded yet is known what its file tells; a field is null where "
        "that does not, as in all fields of a model on the hub, or where it does not belong to models of this kind.",
        **_object(
            "name loaded kind sample_rate hop_length bandwidths codebooks channels codec codebooks_sha256 encodes "
            "streamable delay_frames precision providers",
            name={"type": "string", "description": "Name to ask for the model by, as ?model=NAME"},
            loaded={
                "type": "boolean",
                "description": "Whether it is in memory; else it is loaded when it is asked for",
            },
            kind={"enum": ["tokens", "mels", None], "description": "What it decodes"},
            sample_rate=_or_null("integer", description="Hz of its audio"),
            hop_length=_or_null("integer", description="Samples of audio that a frame stands for"),
            bandwidths=_or_null("array", items=_NUMBER, description="kbps of its codec, by bandwidth_id"),
            codebooks=_or_null("array", items=_INTEGER, description="Codebooks of each of these bandwidths"),
            channels=_or_null("integer", description="Channels of its mels"),
            encodes=_or_null("boolean", description="Whether it takes recordings: its encoder is there"),
            streamable=_or_null("boolean", description="Whether it can decode chunk by chunk; known once it is loaded"),
            delay_frames=_or_null(
                "integer",
                description="Frames that a stream looks ahead, so that its audio is late by them; known once "
                "it is loaded",
            ),
            precision=_or_null("string", description="Numbers that it computes with, such as float32 or int8"),
            providers=_or_null(
                "array",
                items=_TEXT,
                description="Execution providers of onnxruntime that it runs on; known once it is loaded",
            ),
            **_CODEC,
        ),
    },
    "Samples": _object(
        "samples",
        samples={"type": "array", "items": _object("name title seconds", name=_TEXT, title=_TEXT, seconds=_NUMBER)},
    ),
    "Arrays": {
        "oneOf": [
            _object(
                "tokens",
                tokens=_ROWS | {"items": _ROWS | {"items": _INTEGER}},
                samples=_or_null("integer", minimum=0, description="Samples of the recording; the audio is as long"),
                sample_rate=_or_null("integer", minimum=1, description="Hz of the recording that these samples are of"),
                **_CODEC,
            ),
            _object("mels", mels=_ROWS | {"items": _ROWS | {"items": _NUMBER}}),
        ]
    },
    "Tokens": _object(
        "tokens samples sample_rate codec codebooks_sha256",
        tokens=_ROWS | {"items": _ROWS | {"items": _INTEGER}},
        samples=_INTEGER,
        sample_rate=_INTEGER,
        codec=_TEXT,
        codebooks_sha256=_TEXT,
    ),
}
