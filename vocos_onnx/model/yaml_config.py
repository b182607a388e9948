"""Reads YAML of bounded size. Importing this module imports pyyaml, which is in the extras [hub] and [export]."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from vocos_onnx.limits import MAX_CONFIG
from vocos_onnx.messages import first_line

from .checkpoint import CheckpointError
from .onnx_file import read_file

_MAX_NODES = 10_000  # of YAML, with aliases counted as what they expand to


class YamlLoader(yaml.SafeLoader):
    """Loads YAML of bounded size: repeated content counts each time, since 1 kB of aliases can expand to terabytes.

    1e-5, which upstream's configs contain, is a number, as in YAML 1.2, and not a string, as in 1.1.
    """

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


YamlLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(path: Path) -> Any:
    """Returns the content of a YAML file. Raises CheckpointError if it is not valid YAML, or if it is too large."""
    try:
        return yaml.load(read_file(path, MAX_CONFIG, "a config").decode(), YamlLoader)
    except RecursionError:
        raise CheckpointError(f"{path} is not readable YAML: it is nested too deeply") from None
    except OSError:
        raise
    except Exception as error:  # the package raises many kinds, for invalid dates, integers and tags
        raise CheckpointError(f"{path} is not readable YAML: {first_line(error)}") from error
