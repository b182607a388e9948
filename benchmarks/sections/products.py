"""The matrix products alone, as fast as onnxruntime makes them, and their share of the whole."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.bench import Bench
from benchmarks.contenders import EAGER, INT8, OURS, started
from benchmarks.harness import Case, Turn, measure
from benchmarks.results import Row, Section, Table, rounded

FRAMES = 750  # 10 s
PRODUCTS = {(384, 1152): 8, (1152, 384): 8, (384, 1282): 1}  # how many of each shape, in the encodec geometry
FLOPS = sum(2 * FRAMES * a * b * count for (a, b), count in PRODUCTS.items())


@dataclass(frozen=True)
class Alone:
    """Seconds of the products in both precisions, and operations a second of numpy's sgemm of 2048 x 2048."""

    float32: float
    int8: float
    sgemm: float


def run(bench: Bench) -> Section:
    alone = Alone(**bench.current.ask("benchmarks.sections.products", bench.settings.threads))
    case = Case(10)
    with started(bench, "encodec", {name: [case] for name in (EAGER, OURS, INT8)}) as field:
        turns = [Turn(name, contender, case, 4) for name, contender in field.contenders.items()]
        measured = measure(turns, max(2, bench.settings.rounds // 2), bench.settings.pause)
    whole = {name: statistics.median(times.seconds) for name, times in measured.times.items()}
    rows: dict[str, Row] = {}
    for name, seconds in ((OURS, alone.float32), (INT8, alone.int8)):
        rows[name] = {
            "products alone, ms": rounded(1e3 * seconds),
            "G operations/s": rounded(FLOPS / seconds / 1e9),
            "whole path, ms": rounded(1e3 * whole[name]),
            "share, %": rounded(100 * seconds / whole[name]),
        }
    table = Table("10 s", rows, measured.rounds, 4, measured.dropped, measured.disturbed)
    text = (
        f"encodec geometry, {FRAMES} frames; the rest is what is not a product. numpy's sgemm of 2048 x 2048 makes "
        f"{alone.sgemm / 1e9:.0f} GFLOP/s. At that the products in float32 take {1e3 * FLOPS / alone.sgemm:.1f} ms, "
        f"whoever makes them; torch eager takes {1e3 * whole[EAGER]:.1f} ms in all, and could be beaten "
        f"{whole[EAGER] * alone.sgemm / FLOPS:.2f} times if nothing else took any time."
    )
    return Section("The matrix products", text, {"encodec 10 s": table})


def time_product(size: tuple[int, int], int8: bool, times: int, threads: int) -> float:
    """Seconds of one product (FRAMES, size[0]) x size: the best of many."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    (inner, columns), rng = size, np.random.default_rng(0)
    weights = rng.standard_normal((inner, columns)).astype(np.float32)
    tensors: dict[str, np.ndarray | np.generic]
    if int8:
        tensors = {
            "w": np.round(weights * 16).clip(-64, 64).astype(np.int8), "a": np.float32(1), "za": np.uint8(128),
            "b": np.ones(columns, np.float32), "zb": np.zeros(columns, np.int8),
        }  # fmt: skip
        operator, inputs, domain = "MatMulIntegerToFloat", ["x", "w", "a", "b", "za", "zb"], "com.microsoft"
        given: np.ndarray = rng.integers(0, 256, (FRAMES, inner)).astype(np.uint8)
        kind = TensorProto.UINT8
    else:
        tensors = {"w": weights}
        operator, inputs, domain = "MatMul", ["x", "w"], ""
        given, kind = rng.standard_normal((FRAMES, inner)).astype(np.float32), TensorProto.FLOAT
    nodes = [helper.make_node(operator, inputs, [f"y{i}"], domain=domain) for i in range(times)]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", kind, [None, inner])],
        [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, [None, columns]) for i in range(times)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return min(_seconds(lambda: session.run(None, {"x": given})) for _ in range(30)) / times


def _seconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def main() -> None:
    threads = int(sys.argv[1])
    square = np.random.default_rng(0).standard_normal((2, 2048, 2048)).astype(np.float32)
    float32, int8 = (
        sum(time_product(size, int8, 8, threads) * count for size, count in PRODUCTS.items()) for int8 in (False, True)
    )
    sgemm = 2 * 2048**3 / min(_seconds(lambda: square[0] @ square[1]) for _ in range(10))
    print(json.dumps({"float32": float32, "int8": int8, "sgemm": sgemm}))


if __name__ == "__main__":
    main()
