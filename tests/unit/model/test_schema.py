"""docs/reference/format.schema.json and the code accept the same metadata."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import jsonschema
import pytest

from tests import onnx_bytes as ob
from tests.helpers import DATA
from vocos_onnx import EncoderConfig, ModelConfig
from vocos_onnx.dsp.mel import MelFeatures
from vocos_onnx.model.bundled import BUNDLED, find_model
from vocos_onnx.model.config import (
    ENCODER_KEY,
    FORMAT,
    METADATA_KEY,
    UPGRADES,
    EncodecFeatures,
    Quality,
    Source,
)  # fmt: skip
from vocos_onnx.model.onnx_file import read_model

DOCS = Path(__file__).resolve().parents[3] / "docs" / "reference"
SCHEMA = json.loads((DOCS / "format.schema.json").read_text(encoding="utf-8"))
DEFINITIONS = {
    ModelConfig: "model", EncoderConfig: "encoder", EncodecFeatures: "encodec", MelFeatures: "mel", Source: "source",
    Quality: "quality",
}  # fmt: skip
KINDS = {METADATA_KEY: ModelConfig, ENCODER_KEY: EncoderConfig}
PLAIN = {int: "integer", float: "number", str: "string", bool: "boolean", NoneType: "null"}
FILES = [*sorted(DATA.glob("*.onnx")), *sorted((DATA / "format-4").glob("*.onnx")), *map(find_model, BUNDLED)]


def validator(kind: type) -> Any:
    return jsonschema.Draft202012Validator({**SCHEMA, "oneOf": [{"$ref": f"#/$defs/{DEFINITIONS[kind]}"}]})


def metadata(path: Path) -> tuple[type[ModelConfig] | type[EncoderConfig], dict[str, Any]]:
    ((key, text),) = read_model(path).metadata.items()
    return KINDS[key], json.loads(text)


def types(schema: dict[str, Any]) -> set[Any]:
    """The types that a subschema accepts: names of JSON types or definitions, and (items,) for a list."""
    if "enum" in schema:
        return {PLAIN[type(value)] for value in schema["enum"]}
    if "anyOf" in schema:
        return set().union(*map(types, schema["anyOf"]))
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return {name} if name in DEFINITIONS.values() else types(SCHEMA["$defs"][name])
    found = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return {tuple(types(schema["items"])) if name == "array" else name for name in found}


def annotated(hint: Any) -> set[Any]:
    """The same for a type annotation."""
    if hint in DEFINITIONS or hint in PLAIN:
        return {DEFINITIONS.get(hint) or PLAIN[hint]}
    if Ellipsis in get_args(hint):
        return {tuple(annotated(get_args(hint)[0]))}
    return set().union(*map(annotated, get_args(hint)))


@pytest.mark.parametrize("kind", list(DEFINITIONS))
def test_every_field_is_in_the_schema(kind: type) -> None:
    definition = SCHEMA["$defs"][DEFINITIONS[kind]]
    properties = dict(definition["properties"])
    later = definition.get("else", {}).get("required", [])  # fields newer than the formats named in the condition
    assert definition["required"] == [name for name in properties if name not in later]
    assert definition["additionalProperties"] is False
    if kind in KINDS.values():
        assert properties.pop("format")["enum"] == [*UPGRADES, FORMAT]
    assert list(properties) == [field.name for field in fields(kind)]
    hints = get_type_hints(kind)
    assert {name: types(schema) for name, schema in properties.items()} == {
        name: annotated(hints[name]) for name in properties
    }


@pytest.mark.parametrize("kind", list(DEFINITIONS))
def test_every_field_is_on_the_page(kind: type) -> None:
    page = (DOCS / "format.md").read_text(encoding="utf-8")
    assert all(f"| `{field.name}` |" in page for field in fields(kind))


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_file_is_valid(path: Path) -> None:
    kind, tree = metadata(path)
    validator(kind).validate(tree)
    jsonschema.Draft202012Validator(SCHEMA).validate(tree)
    kind.from_json(json.dumps(tree))


ENCODEC, MEL, INT8, SPECTRUM = (
    metadata(DATA / f"{name}.onnx")[1] for name in ("encodec", "mel", "mel-int8", "encoder-spectrum")
)
NOTHING = object()


WRONG: list[tuple[dict[str, Any], str, list[Any]]] = [
    (ENCODEC, "sample_rate n_fft hop_length feature_channels encodec.num_codebooks encodec.codebook_size",
     [NOTHING, 0, -1, 1.5, "1", None, True, 1 << 40]),
    (MEL, "mel.n_fft mel.hop_length mel.n_mels", [NOTHING, 0, -1, 1.5, "1", None, 1 << 40]),
    (SPECTRUM, "sample_rate hop_length channels codebook_size", [NOTHING, 0, 1.5, "1", None, 1 << 40]),
    (SPECTRUM, "left_context right_context n_fft", [NOTHING, -1, 1.5, "1", None, 1 << 40]),
    (ENCODEC, "head padding precision", [NOTHING, "", "x", 1, None, ["same"]]),
    (MEL, "mel.padding mel.mel_scale mel.norm", [NOTHING, "", "x", 1, None]),
    (SPECTRUM, "input", [NOTHING, "", "x", 1, None]),
    (MEL, "mel.f_min mel.f_max mel.clip mel.power_offset", [NOTHING, -1, "1", None, [1]]),
    (MEL, "mel.clip", [0]),
    (INT8, "quality.snr_db quality.seconds", [NOTHING, "1", None]),
    (INT8, "quality.pesq_wb", [NOTHING, "1", [1]]),
    (ENCODEC, "clip_audio", [NOTHING, 0, "true", None]),
    (ENCODEC, "num_bandwidth_ids", [NOTHING, -1, 1.5, 1 << 40]),
    (ENCODEC, "encodec.bandwidths", [NOTHING, [], [-1, 1], ["1", "2"], 1, [1e9, 1e9], [1] * 129]),
    (ENCODEC, "encodec.codebooks_per_bandwidth", [NOTHING, [], [0, 1], [1.5, 2], ["1", "2"], [1] * 129]),
    (ENCODEC, "encodec.codebooks_sha256", [NOTHING, "x", "0" * 63, "G" * 64, 1]),
    (SPECTRUM, "codebooks_sha256", [NOTHING, [], ["x"], ["0" * 64] * 129, "0" * 64]),
    (ENCODEC, "encodec.codec source.name source.revision", [NOTHING, 1, None, "a\nb", "\x7f", "x" * 1025]),
    (ENCODEC, "source encodec", [NOTHING, 1, [], {}]),
    (ENCODEC, "colour source.colour encodec.colour", [1]),
    (ENCODEC, "format", [NOTHING, 0, 3, FORMAT + 1, "5", None, 1.5]),
    (SPECTRUM, "format", [NOTHING, 3, FORMAT + 1]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tree", "path", "value"),
    [(tree, path, value) for tree, paths, values in WRONG for path in paths.split() for value in values],
)
def test_what_is_wrong_is_refused_by_both(tree: dict[str, Any], path: str, value: Any) -> None:
    kind = EncoderConfig if "input" in tree else ModelConfig
    changed = json.loads(json.dumps(tree))
    *place, key = path.split(".")
    inner = changed
    for name in place:
        inner = inner[name]
    if value is NOTHING:
        del inner[key]
    else:
        inner[key] = value
    with pytest.raises(jsonschema.ValidationError):
        validator(kind).validate(changed)
    with pytest.raises(ValueError, match=r".+"):
        kind.from_json(json.dumps(changed))


def test_the_tiny_model_of_the_tests_is_valid() -> None:
    validator(ModelConfig).validate(ob.CONFIG)
