"""The YAML beside a checkpoint's weights, and of a training: mappings of class_path and init_args, checked by type."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from vocos_onnx.limits import MAX_BANDWIDTH_IDS, MAX_CHANNELS, MAX_LAYERS, MAX_RATE
from vocos_onnx.messages import first_line, shown
from vocos_onnx.model.onnx_file import read_file

from .errors import CheckpointError

MAX_CONFIG = 1 << 16  # bytes
_MAX_NODES = 10_000  # of YAML, aliases counted as what they stand for
_MAX_INTEGER = (1 << 31) - 1
_MOST = {
    "input_channels": MAX_CHANNELS,
    "dim": MAX_CHANNELS,
    "intermediate_dim": 4 * MAX_CHANNELS,
    "num_layers": MAX_LAYERS,
    "num_blocks": MAX_LAYERS,
    "adanorm_num_embeddings": MAX_BANDWIDTH_IDS,
    "n_mels": MAX_CHANNELS,
    "sample_rate": MAX_RATE,
    # the square of these is the size of matrices, in the verification and where the inverse transform is in the graph
    "n_fft": 1 << 14,
    "mdct_frame_len": 1 << 14,
    "hop_length": 1 << 14,
}


class YamlLoader(yaml.SafeLoader):
    """YAML of bounded size: what aliases repeat counts each time, since 1 kB of them can stand for terabytes."""

    def get_single_node(self) -> Any:
        root = super().get_single_node()
        weights: dict[int, int | None] = {}

        def weigh(node: Any) -> int:
            known = weights.get(id(node), 0)
            if known is None:
                raise yaml.YAMLError("it contains itself")
            if known:
                return known
            weights[id(node)] = None
            children = [] if isinstance(node, yaml.ScalarNode) else node.value
            if isinstance(node, yaml.MappingNode):
                children = [child for pair in children for child in pair]
            total = 1 + sum(map(weigh, children))
            if total > _MAX_NODES:
                raise yaml.YAMLError(f"it has more than {_MAX_NODES} values")
            weights[id(node)] = total
            return total

        if root is not None:
            weigh(root)
        return root


def load_yaml(path: Path, loader: type[YamlLoader] = YamlLoader) -> Any:
    """The content of a YAML file. Raises CheckpointError if it cannot be read, or if there is too much of it."""
    try:
        return yaml.load(read_file(path, MAX_CONFIG, "a config").decode(), loader)
    except RecursionError:
        raise CheckpointError(f"{path} is not readable YAML: it is nested too deeply") from None
    except OSError:
        raise
    except Exception as error:  # the package lets many out, for dates, integers and tags that are none
        raise CheckpointError(f"{path} is not readable YAML: {first_line(error)}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping of feature_extractor, backbone and head. Raises CheckpointError if the file holds none."""
    config = load_yaml(path)
    if isinstance(config, dict) and "model" in config:  # a training config: the model's arguments are nested
        model = config["model"]
        config = model.get("init_args", model) if isinstance(model, dict) else model
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} holds no mapping; expected feature_extractor, backbone and head")
    return config


def section(config: dict[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """class_path and init_args of a part of a config. Raises CheckpointError if it has none."""
    section = config.get(name)
    if not isinstance(section, dict) or not isinstance(section.get("class_path"), str):
        raise CheckpointError(f"the config lacks {name}.class_path")
    args = section.get("init_args") or {}
    if not isinstance(args, dict):
        raise CheckpointError(f"{name}.init_args is {shown(args)}, expected a mapping")
    return section["class_path"], args


def check_args(name: str, class_path: str, args: dict[str, Any], function: Callable[..., Any]) -> None:
    """Raises CheckpointError unless every argument is known, none is missing, and each has its type and size.

    YAML makes 24000.0 a float and "64" a string; torch would take either, or fail later without naming it.
    """
    signature = inspect.signature(function)
    try:
        signature.bind(**args)
    except TypeError as error:
        raise CheckpointError(
            f"{name}: {class_path}: {first_line(error)}; its arguments are {', '.join(signature.parameters)}"
        ) from error
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    for argument, value in args.items():
        hint = hints[argument]
        allowed = () if hint is Any else get_args(hint) or (hint,)
        if allowed and not (type(value) in allowed or (float in allowed and type(value) is int)):
            names = " or ".join(t.__name__ for t in allowed)
            raise CheckpointError(f"{name}: {argument} is {shown(value)}, expected {names}")
        most = _MOST.get(argument, _MAX_INTEGER)
        if type(value) is int and abs(value) > most:
            raise CheckpointError(f"{name}: {argument} is {shown(value)}, expected at most {most}")
        if type(value) is float and not math.isfinite(value):
            raise CheckpointError(f"{name}: {argument} is {value}, expected a finite number")
