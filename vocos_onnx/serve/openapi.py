"""The description of the routes at /openapi.json, as OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from vocos_onnx.mels import CONVENTIONS
from vocos_onnx.version import __version__

from .answers import FORMATS, TOKENS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_INTEGER: Schema = {"type": "integer"}
_ROWS: Schema = {"type": "array", "minItems": 1}


def description(*, needs_token: bool = False) -> Schema:
    """The document. ``needs_token``: whether the service asks for a bearer token."""
    document: Schema = {
        "openapi": "3.1.0",
        "info": {
            "title": "vocos-onnx",
            "version": __version__,
            "description": "Tokens and mels to audio, recordings to tokens and back. Errors are JSON with the reason. "
            "/v1/stream is a WebSocket, which docs/guides/service.md describes.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": {
            "/": {
                "get": _operation("page", "The page", {"200": _content("The page", "text/html", _TEXT)}, is_open=True)
            },
            "/page/{file}": {
                "get": _operation(
                    "pageFile",
                    "A file of the page",
                    {"200": {"description": "The file"}, "404": _error("There is no such file")},
                    [_in_path("file", "Its name")],
                    is_open=True,
                )
            },
            "/healthz": {
                "get": _operation(
                    "healthz", "Whether it is alive", {"200": _json("It is", _of("Health"))}, is_open=True
                )
            },
            "/readyz": {
                "get": _operation(
                    "readyz",
                    "Whether requests may be sent to it",
                    {
                        "200": _json("They may", _of("Readiness")),
                        "503": _json("The default model is not loaded, the queue is full, or it ends", _of("Readiness"))
                        | {"headers": {"Retry-After": _header(_INTEGER, "Seconds")}},
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
                "get": _operation("openapi", "This description", {"200": _json("It", {"type": "object"})})
            },
            "/v1/models": {"get": _operation("listModels", "The models", {"200": _json("They", _of("Models"))})},
            "/v1/samples": {
                "get": _operation("listSamples", "The bundled recordings", {"200": _json("They", _of("Samples"))})
            },
            "/v1/samples/{name}": {
                "get": _operation(
                    "getSample",
                    "A bundled recording",
                    {
                        "200": _content("The recording", "audio/wav", _binary()),
                        "404": _error("There is no such recording"),
                    },
                    [_in_path("name", "Its name, of those in /v1/samples")],
                )
            },
            "/v1/decode": {"post": _decode()},
            "/v1/resynth": {"post": _resynth()},
            "/v1/encode": {"post": _encode()},
            "/v1/stream": {
                "get": _operation(
                    "stream",
                    "A WebSocket, which docs/guides/service.md describes",
                    {"101": {"description": "It is open"}, "426": _error("The request asks for no WebSocket")},
                )
            },
        },
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }
    if needs_token:
        document["security"] = [{"token": []}]
    return document


def _decode() -> Schema:
    parameters = [
        _query("model", _TEXT, "Name of the model, of those in /v1/models; by default the first"),
        _query(
            "bandwidth", _NUMBER, "kbps, one of the model's: of tokens the first codebooks are decoded, those of it"
        ),
        _query(
            "bandwidth_id", _INTEGER, "Index of the bandwidth that the network is conditioned on; not with bandwidth"
        ),
        _query("mels_from", {"enum": list(CONVENTIONS)}, "System that made the mels; by default as the model has them"),
        *_audio_parameters(),
    ]
    body = {
        "application/json": {"schema": _of("Arrays")},
        "application/octet-stream": {"schema": _binary()},
        "application/x-npz": {"schema": _binary()},
        "application/x-npy": {"schema": _binary()},
    }
    text = (
        "Tokens (codebooks, frames) or mels (channels, frames): JSON, a .npz as /v1/encode answers with, or a .npy. "
        "Tokens that name their codec are decoded by a model of it alone."
    )
    return _work("decode", "Tokens or mels to audio", text, parameters, body, _audio())


def _resynth() -> Schema:
    parameters = [
        _query("model", _TEXT, "Name of the model, of those in /v1/models; by default the first"),
        _query("bandwidth", _NUMBER, "kbps, one of the model's, by default 6; not of a mel model"),
        *_audio_parameters(),
    ]
    text = "A recording of any kind, rate and number of channels, through tokens or mels and back."
    return _work("resynth", "A recording through a model and back", text, parameters, _recording(), _audio())


def _encode() -> Schema:
    parameters = [
        _query("model", _TEXT, "Name of a codec, of those in /v1/models; by default the first model"),
        _query("bandwidth", _NUMBER, "kbps, one of the model's, by default 6"),
        _query("format", {"enum": list(TOKENS)}, "By default what the header Accept asks for, else npz"),
    ]
    answer = _content("The tokens", TOKENS["npz"].media, _binary())
    answer["content"]["application/json"] = {"schema": _of("Tokens")}
    answer["headers"] = _result_headers()
    text = "A recording of any kind, rate and number of channels, to tokens."
    return _work("encode", "A recording to tokens", text, parameters, _recording(), answer)


def _work(name: str, summary: str, text: str, parameters: list[Schema], body: Schema, answer: Schema) -> Schema:
    again = {"headers": {"Retry-After": _header(_INTEGER, "Seconds after which to try again")}}
    answers = {
        "200": answer,
        "400": _error("The input or a parameter is wrong"),
        "404": _error("There is no such model; the reason lists those there are"),
        "406": _error("No format that the service has is accepted"),
        "408": _error("The body has come too slowly"),
        "413": _error("The body is too large, or takes too much memory"),
        "415": _error("The body is of another kind"),
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
        answers["401"] = _error("The bearer token is missing or another one")
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
        "description": "The audio: mono, of the model's sample rate",
        "content": content,
        "headers": _result_headers(),
    }


def _recording() -> Schema:
    return {media: {"schema": _binary()} for media in ("audio/*", "application/octet-stream")}


def _result_headers() -> Schema:
    return {
        "X-Vocos-Model": _header(_TEXT, "The model's name"),
        "X-Vocos-Seconds": _header(_NUMBER, "Seconds of audio, where they are known"),
        "X-Vocos-Compute-Ms": _header(_NUMBER, "Milliseconds of computing, of an answer that is whole"),
        "Server-Timing": _header(_TEXT, "The same for browsers"),
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


_CODEC = {
    "codec": _or_null("string", description="Name of the codec whose tokens they are"),
    "codebooks_sha256": _or_null("string", description="Fingerprint of its codebooks, which decides"),
}
_SCHEMAS: Schema = {
    "Error": _object("error", error={"type": "string", "description": "The reason"}),
    "Health": _object("status", status={"const": "ok"}),
    "Readiness": _object(
        "status requests held_bytes",
        status={"enum": ["ok", "loading", "full", "ending"]},
        requests={"type": "integer", "description": "Requests that are worked on or wait for it"},
        held_bytes={"type": "integer", "description": "Bytes that are held for requests"},
    ),
    "Models": _object("default models", default=_TEXT, models={"type": "array", "items": _of("Model")}),
    "Model": {
        "description": "A model; of one that is not loaded yet only the name is known",
        **_object(
            "name loaded kind sample_rate hop_length bandwidths codebooks channels codec codebooks_sha256 encodes "
            "streamable delay_frames precision providers",
            name=_TEXT,
            loaded={"type": "boolean"},
            kind={"enum": ["tokens", "mels", None]},
            sample_rate=_or_null("integer"),
            hop_length=_or_null("integer"),
            bandwidths=_or_null("array", items=_NUMBER),
            codebooks=_or_null("array", items=_INTEGER),
            channels=_or_null("integer"),
            encodes=_or_null("boolean"),
            streamable=_or_null("boolean"),
            delay_frames=_or_null("integer"),
            precision=_or_null("string"),
            providers=_or_null("array", items=_TEXT),
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
                samples=_or_null("integer", minimum=0, description="Of the recording; the audio is as long"),
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
