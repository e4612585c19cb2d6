"""Which of the operator cases in the onnx package ONNX Runtime passes.

    ort_node_pass.py CACHE OUTPUT.txt [--details RESULTS.json] [--only PATTERN]

Runs every case of onnx/backend/test/data/node and writes the names of those that pass, one a line, under a header
that counts them by feature and by operator. Values are compared with rtol 1e-3 and atol 1e-5, strings exactly;
element types and shapes must agree. Element types that numpy lacks (bfloat16, float8, int4, ...) go in and out as
raw bytes. The work is done by child processes, so a crash of ONNX Runtime costs one case.
"""

import argparse
import collections
import ctypes
import fnmatch
import json
import queue
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from onnx import OptionalProto, SequenceProto, TensorProto, numpy_helper

import onnxruntime_run

RTOL, ATOL = 1e-3, 1e-5
SECONDS_PER_CASE = 120

NATIVE = {
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.STRING, TensorProto.BOOL,
    TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64,
    TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64,
}  # fmt: skip
# How ONNX Runtime keeps the types that numpy lacks: element type of ml_dtypes, and how many share a byte.
FOREIGN = {
    TensorProto.BFLOAT16: (ml_dtypes.bfloat16, 1),
    TensorProto.FLOAT8E4M3FN: (ml_dtypes.float8_e4m3fn, 1),
    TensorProto.FLOAT8E4M3FNUZ: (ml_dtypes.float8_e4m3fnuz, 1),
    TensorProto.FLOAT8E5M2: (ml_dtypes.float8_e5m2, 1),
    TensorProto.FLOAT8E5M2FNUZ: (ml_dtypes.float8_e5m2fnuz, 1),
    TensorProto.FLOAT8E8M0: (ml_dtypes.float8_e8m0fnu, 1),
    TensorProto.INT4: (ml_dtypes.int4, 2),
    TensorProto.UINT4: (ml_dtypes.uint4, 2),
    TensorProto.INT2: (ml_dtypes.int2, 4),
    TensorProto.UINT2: (ml_dtypes.uint2, 4),
    TensorProto.FLOAT4E2M1: (ml_dtypes.float4_e2m1fn, 2),
}


class Mismatch(Exception):
    """ONNX Runtime ran the case, and the values differ from the expected ones."""


# --- values ---------------------------------------------------------------------------------------------------------


def load_value(path, value_type):
    """A .pb file as a TensorProto, a list of such values, or None, by the declared type of the value."""
    data = path.read_bytes()
    kind = value_type.WhichOneof("value")
    if kind == "sequence_type":
        return from_sequence(SequenceProto.FromString(data))
    if kind == "optional_type":
        return from_optional(OptionalProto.FromString(data))
    return TensorProto.FromString(data)


def from_sequence(sequence):
    if sequence.elem_type == SequenceProto.TENSOR:
        return list(sequence.tensor_values)
    if sequence.elem_type == SequenceProto.SEQUENCE:
        return [from_sequence(value) for value in sequence.sequence_values]
    raise NotImplementedError(f"sequence of kind {sequence.elem_type}")


def from_optional(optional):
    if optional.elem_type == OptionalProto.UNDEFINED:
        return None
    if optional.elem_type == OptionalProto.TENSOR:
        return optional.tensor_value
    if optional.elem_type == OptionalProto.SEQUENCE:
        return from_sequence(optional.sequence_value)
    raise NotImplementedError(f"optional of kind {optional.elem_type}")


def to_numpy(tensor):
    """A tensor as a numpy array; strings as objects."""
    value = np.asarray(numpy_helper.to_array(tensor))
    if tensor.data_type == TensorProto.STRING:
        decoded = [item.decode() if isinstance(item, bytes) else str(item) for item in value.ravel()]
        return np.array(decoded, dtype=object).reshape(value.shape)
    return value


def packed(array, per_byte):
    """The bytes of an array as ONNX Runtime keeps them: elements of less than a byte share one, the first one low."""
    if per_byte == 1:
        return array.tobytes()
    bits = 8 // per_byte
    codes = array.view(np.uint8).ravel() & ((1 << bits) - 1)
    codes = np.append(codes, np.zeros(-codes.size % per_byte, dtype=np.uint8)).reshape(-1, per_byte)
    return np.bitwise_or.reduce(codes << (bits * np.arange(per_byte, dtype=np.uint8)), axis=1).astype(np.uint8).tobytes()


def unpacked(data, dtype, per_byte, shape):
    count = int(np.prod(shape))
    if per_byte == 1:
        return np.frombuffer(data, dtype=dtype, count=count).reshape(shape)
    bits = 8 // per_byte
    octets = np.frombuffer(data, dtype=np.uint8)[:, None]
    codes = (octets >> (bits * np.arange(per_byte, dtype=np.uint8))) & ((1 << bits) - 1)
    codes = codes.ravel()[:count].astype(np.uint8)
    if dtype in (ml_dtypes.int4, ml_dtypes.int2):
        sign = 1 << (bits - 1)
        return ((codes ^ sign).astype(np.int8) - sign).astype(dtype).reshape(shape)
    return codes.view(dtype).reshape(shape)


def byte_count(shape, dtype, per_byte):
    count = int(np.prod(shape))
    return count * np.dtype(dtype).itemsize if per_byte == 1 else -(-count // per_byte)


def to_ort(tensor):
    """A tensor as an OrtValue, whatever its element type."""
    array = to_numpy(tensor)
    if tensor.data_type in NATIVE:
        return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
    dtype, per_byte = FOREIGN[tensor.data_type]
    binding = onnxruntime.capi._pybind_state
    device = binding.OrtDevice(binding.OrtDevice.cpu(), binding.OrtDevice.default_memory(), 0)
    value = binding.OrtValue.ortvalue_from_shape_and_onnx_type(list(array.shape), tensor.data_type, device)
    data = packed(np.ascontiguousarray(array).astype(dtype), per_byte)
    if data:
        ctypes.memmove(value.data_ptr(), data, len(data))
    return onnxruntime.OrtValue(value)


def from_ort(value):
    """The numpy array in an OrtValue, whatever its element type."""
    kind = value.element_type()
    if kind in NATIVE:
        return value.numpy()
    dtype, per_byte = FOREIGN[kind]
    shape = value.shape()
    size = byte_count(shape, dtype, per_byte)
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return unpacked(data, dtype, per_byte, shape)


def is_native(value):
    if isinstance(value, list):
        return all(map(is_native, value))
    return value is None or value.data_type in NATIVE


def to_feed(value):
    if isinstance(value, list):
        return [to_feed(item) for item in value]
    return None if value is None else to_numpy(value)


# --- one case -------------------------------------------------------------------------------------------------------


def compare(expected, found, where):
    """Raises Mismatch unless `found` (numpy, list or None) is what the file says."""
    if isinstance(expected, list):
        if not isinstance(found, list) or len(found) != len(expected):
            raise Mismatch(f"{where}: another length of sequence")
        for index, pair in enumerate(zip(expected, found)):
            compare(*pair, f"{where}[{index}]")
        return
    if expected is None or found is None:
        if expected is not None or found is not None:
            raise Mismatch(f"{where}: one is empty and the other not")
        return
    wanted, found = to_numpy(expected), np.asarray(found)
    if wanted.shape != found.shape:
        raise Mismatch(f"{where}: shape {found.shape} for {wanted.shape}")
    if expected.data_type == TensorProto.STRING:
        if [str(item) for item in found.ravel()] != list(wanted.ravel()):
            raise Mismatch(f"{where}: other strings")
        return
    if wanted.dtype != found.dtype:
        raise Mismatch(f"{where}: type {found.dtype} for {wanted.dtype}")
    wide = np.complex128 if np.iscomplexobj(wanted) else np.float64
    close = np.isclose(found.astype(wide), wanted.astype(wide), rtol=RTOL, atol=ATOL, equal_nan=True)
    if not close.all():
        raise Mismatch(f"{where}: {int((~close).sum())} of {close.size} values differ")


def run_case(folder):
    """'pass', or how the case fails, with a sentence."""
    model = onnx.load(folder / "model.onnx")
    data = folder / "test_data_set_0"
    try:
        session = onnxruntime_run.session(str(folder / "model.onnx"))
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        return "load refused", first_line(error)
    try:
        inputs = {}
        for index, value in enumerate(model.graph.input):
            path = data / f"input_{index}.pb"
            if path.exists():
                inputs[value.name] = load_value(path, value.type)
        expected = [
            load_value(data / f"output_{index}.pb", value.type) for index, value in enumerate(model.graph.output)
        ]
        known = {value.name for value in session.get_inputs()}
        inputs = {name: value for name, value in inputs.items() if name in known}
        if all(map(is_native, [*inputs.values(), *expected])):
            found = session.run(None, {name: to_feed(value) for name, value in inputs.items()})
        else:
            feeds = {name: to_ort(value) for name, value in inputs.items()}
            names = [output.name for output in session.get_outputs()]
            found = [from_ort(value) for value in session.run_with_ort_values(names, feeds)]
    except Exception as error:
        return "run refused", first_line(error)
    try:
        for value, *pair in zip(model.graph.output, expected, found):
            compare(*pair, value.name)
    except Mismatch as error:
        return "mismatch", str(error)
    return "pass", ""


def first_line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def serve(data):
    """The child process: reads case names, writes results as lines of JSON."""
    for line in sys.stdin:
        name = line.strip()
        outcome, detail = run_case(data / name)
        print(json.dumps([name, outcome, detail]), flush=True)


class Child:
    """A child process that runs cases; a new one is started after a crash."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.process = None

    def run(self, name):
        if self.process is None:
            self.process = subprocess.Popen(
                self.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        limit = threading.Timer(SECONDS_PER_CASE, self.process.kill)
        limit.start()
        try:
            self.process.stdin.write(name + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            limit.cancel()
        if line:
            return json.loads(line)
        status = self.process.wait()
        self.process = None
        return [name, "crash", f"ended with status {status}"]

    def close(self):
        if self.process is not None:
            self.process.stdin.close()
            self.process.wait()


def run_all(names, arguments, workers=2):
    waiting = queue.Queue()
    for name in names:
        waiting.put(name)
    results = {}

    def work():
        child = Child(arguments)
        while True:
            try:
                name = waiting.get_nowait()
            except queue.Empty:
                break
            _, outcome, detail = child.run(name)
            results[name] = (outcome, detail)
        child.close()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {name: results[name] for name in names}


# --- summary --------------------------------------------------------------------------------------------------------


def graphs_of(model):
    """The main graph, its subgraphs, and the bodies of the model's functions."""
    pending = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending.extend([attribute.g] if attribute.HasField("g") else [])
                pending.extend(attribute.graphs)


def element_types(value_type):
    kind = value_type.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        return {TensorProto.DataType.Name(getattr(value_type, kind).elem_type).lower()}
    if kind in ("sequence_type", "optional_type"):
        return {kind.removesuffix("_type")} | element_types(getattr(value_type, kind).elem_type)
    return {kind}


def features(model):
    """What a runtime must know to take the case: element types, kinds of value, domains, control flow."""
    found = set()
    for value in [*model.graph.input, *model.graph.output]:
        found |= {f"type {name}" for name in element_types(value.type)}
    for graph in graphs_of(model):
        for node in graph.node:
            if node.domain:
                found.add(f"domain {node.domain}")
            if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
                found.add("has a subgraph")
    if model.functions:
        found.add("has local functions")
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    found.add(f"opset {version:02}" if version else "opset none (other domains only)")
    return found


def summary(data, passing):
    by_feature, by_operator, expanded = collections.Counter(), collections.Counter(), 0
    for name in passing:
        model = onnx.load(data / name / "model.onnx")
        by_feature.update(features(model))
        if "_expanded" in name:
            expanded += 1
            continue
        operators = {node.op_type for graph in graphs_of(model) for node in graph.node}
        by_operator.update(operators)
    yield f"{expanded} cases are '_expanded': an operator replaced by the nodes of its function body."
    yield ""
    yield "Cases by feature (a case may have several; types are those of the model's inputs and outputs):"
    for name in sorted(by_feature):
        yield f"  {name}: {by_feature[name]}"
    yield ""
    yield "Cases by operator they contain, without the expanded ones:"
    operators = ", ".join(f"{name} {by_operator[name]}" for name in sorted(by_operator))
    for line in textwrap.wrap(operators, 100):
        yield f"  {line}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--details", type=Path, help="write every case's outcome here")
    parser.add_argument("--only", default="*", help="run the cases that match this pattern")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    data = arguments.cache / "models/onnx-1.20.1/onnx/backend/test/data/node"
    if arguments.serve:
        serve(data)
        return

    names = sorted(path.name for path in data.iterdir() if fnmatch.fnmatch(path.name, arguments.only))
    child = [sys.executable, __file__, str(arguments.cache), str(arguments.output), "--serve"]
    results = run_all(names, child)
    if arguments.details:
        arguments.details.write_text(json.dumps(results, indent=1))
    passing = [name for name, (outcome, _) in results.items() if outcome == "pass"]
    counts = collections.Counter(outcome for outcome, _ in results.values())
    header = [
        f"Operator cases of onnx {onnx.__version__} that onnxruntime {onnxruntime.__version__} passes on the CPU.",
        "",
        "Made by tests/oracle/ort_node_pass.py; run it again after a change of either version. Values are compared",
        f"with rtol {RTOL:g} and atol {ATOL:g}, strings exactly; element types and shapes must agree.",
        "",
        f"{len(names)} cases: " + ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common()) + ".",
        *summary(data, passing),
    ]
    lines = [f"# {line}".rstrip() for line in header] + [""] + passing
    arguments.output.write_text("\n".join(lines) + "\n")
    print("\n".join(header))


if __name__ == "__main__":
    main()
