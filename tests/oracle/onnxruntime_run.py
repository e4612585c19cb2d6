"""Run a model in ONNX Runtime on the CPU: named inputs from one .npz, outputs by name into another.

    onnxruntime_run.py MODEL.onnx INPUT.npz OUTPUT.npz [--threads N] [--repeat R]

With --repeat the run is repeated R times after one warm-up, and one line of JSON with the minimum and the median in
seconds goes to standard output. Graph optimisation is on, as a user of ONNX Runtime has it; one thread unless told
otherwise, so that sums come out in the same order every time.
"""

import argparse
import json
import statistics
import sys
import time

import numpy as np
import onnxruntime


def session(model, threads=1):
    """An inference session on the CPU. `model` is a path or the bytes of a model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.use_deterministic_compute = True
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model, inputs, threads=1):
    """The outputs of one run, by name."""
    opened = session(model, threads)
    return named_outputs(opened, opened.run(None, inputs))


def named_outputs(opened, values):
    return {output.name: np.asarray(value) for output, value in zip(opened.get_outputs(), values)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("input")
    parser.add_argument("output")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=0)
    arguments = parser.parse_args()

    opened = session(arguments.model, arguments.threads)
    with np.load(arguments.input) as archive:
        inputs = {name: archive[name] for name in archive.files}
    missing = [value.name for value in opened.get_inputs() if value.name not in inputs]
    if missing:
        sys.exit(f"{arguments.input}: no value for the model's input {', '.join(missing)}")
    wanted = {value.name: inputs[value.name] for value in opened.get_inputs()}
    outputs = named_outputs(opened, opened.run(None, wanted))
    np.savez(arguments.output, **outputs)

    if arguments.repeat:
        seconds = []
        for _ in range(arguments.repeat):
            start = time.perf_counter()
            opened.run(None, wanted)
            seconds.append(time.perf_counter() - start)
        figures = {"threads": arguments.threads, "repeat": arguments.repeat}
        figures |= {"min_seconds": min(seconds), "median_seconds": statistics.median(seconds)}
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
