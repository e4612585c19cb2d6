"""The host against ONNX Runtime: both run the same model on the same inputs, in turns.

Needs the test models and their Python (`cargo xtask models`) and a release build of the examples
(`cargo build --release --workspace --examples`). Run it with `.cache/venv/bin/python`.

For each model and number of threads it prints the least and the median time of both, the ratio of the least times
(above 1 the host is faster), the largest difference of the outputs, and the machine's load, to which others than these
two may add. Runs alternate in short bursts, so that whatever else the machine does falls on both sides alike. With one
thread it also prints the ratio of the least processor times (Linux), which others' work hardly touches.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import tempfile
import time

import numpy
import onnx
import onnxruntime

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("ORRERY_CACHE", ROOT / ".cache"))
EXAMPLES = ROOT / "target/release/examples"
# Where models of the zoo are written for ONNX Runtime to read.
MADE = ROOT / "target/bench-models"
DETECTOR = CACHE / "models/rapidocr-onnxruntime-1.4.4/rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx"


class Host:
    """The example program over one model."""

    def __init__(self, program, model, threads):
        self.process = subprocess.Popen(
            [program, str(model), str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ready = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("host_run ended early")
        return line.strip()

    def say(self, line):
        print(line, file=self.process.stdin, flush=True)

    def give(self, folder, inputs):
        names = {"float32": "f32", "int64": "i64", "int32": "i32"}
        for number, array in enumerate(inputs):
            file = pathlib.Path(folder) / f"input{number}.bin"
            array.tofile(file)
            self.say(f"input {names[str(array.dtype)]} {','.join(map(str, array.shape))} {file}")

    def run(self, count):
        self.say(f"run {count}")
        return [float(x) for x in self.answer().split()]

    def processor_time(self):
        """Seconds that its main thread has had so far; none where the system does not tell."""
        try:
            return int(pathlib.Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[0]) * 1e-9
        except (OSError, ValueError):
            return None

    def output(self, folder, number, shape):
        file = pathlib.Path(folder) / "output.bin"
        self.say(f"output {number} {file}")
        self.answer()
        return numpy.fromfile(file, dtype=numpy.float32).reshape(shape)

    def profile(self):
        self.say("profile")
        lines = []
        while line := self.answer():
            lines.append(line)
        return lines

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def inputs_of(session, extents):
    """Inputs with fixed elements; `extents` names the symbolic dimensions."""
    made = []
    random = numpy.random.default_rng(1)
    for value in session.get_inputs():
        shape = [extents.get(d, 1) if not isinstance(d, int) else d for d in value.shape]
        shape = extents.get(value.name, shape)
        if value.type == "tensor(float)":
            made.append(random.standard_normal(shape, dtype=numpy.float32))
        elif "mask" in value.name:
            made.append(numpy.ones(shape, dtype=numpy.int64))
        elif "type" in value.name:
            made.append(numpy.zeros(shape, dtype=numpy.int64))
        else:
            made.append(random.integers(1, 1000, shape).astype(numpy.int64))
    return made


def measure(program, model, extents, threads, seconds, show_profile):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    theirs = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    inputs = inputs_of(theirs, extents)
    feed = {value.name: array for value, array in zip(theirs.get_inputs(), inputs)}
    with tempfile.TemporaryDirectory() as folder:
        ours = Host(program, model, threads)
        ours.give(folder, inputs)
        expected = theirs.run(None, feed)
        ours.run(1)
        difference = 0.0
        for number, array in enumerate(expected):
            got = ours.output(folder, number, array.shape)
            scale = max(1.0, float(numpy.abs(array).max()))
            difference = max(difference, float(numpy.abs(got - array).max()) / scale)
        our_times, their_times, our_processor, their_processor = [], [], [], []
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(our_times) < 6:
            before = ours.processor_time()
            our_times += ours.run(3)
            after = ours.processor_time()
            start_processor = time.thread_time()
            for _ in range(3):
                start = time.perf_counter()
                theirs.run(None, feed)
                their_times.append(time.perf_counter() - start)
            if threads == 1 and before is not None:
                our_processor.append(after - before)
                their_processor.append(time.thread_time() - start_processor)
        profile = ours.profile() if show_profile else []
        ours.close()
    processor = f"of processor time {min(their_processor) / min(our_processor):.2f}, " if our_processor else ""
    return our_times, their_times, processor, difference, profile


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(EXAMPLES / "host_run"))
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=15.0, help="time for each model and number of threads")
    parser.add_argument("--model", action="append", default=[], help="NAME=FILE[,DIM=EXTENT...], instead of the built-in list")
    parser.add_argument("--profile", action="store_true", help="also print the host's time by step")
    arguments = parser.parse_args()
    models = []
    for given in arguments.model:
        name, rest = given.split("=", 1)
        file, *pairs = rest.split(",")
        extents = {}
        for pair in pairs:
            key, value = pair.split("=")
            extents[key] = [int(x) for x in value.split("x")] if "x" in value else int(value)
        models.append((name, pathlib.Path(file), extents))
    if not models:
        if not (MADE / "resnet50.onnx").exists():
            subprocess.run([EXAMPLES / "host_models", MADE], check=True)
        models = [
            ("rapidocr detector 640x640", DETECTOR, {"x": [1, 3, 640, 640]}),
            ("ResNet-50 batch 1", MADE / "resnet50.onnx", {}),
            ("MiniLM batch 1, 128 tokens", CACHE / "expected/minilm/model.onnx", {"batch": 1, "sequence": 128}),
        ]
    print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__}; times in ms, least / median")
    for name, file, extents in models:
        for threads in arguments.threads:
            ours, theirs, processor, difference, profile = measure(
                arguments.program, file, extents, threads, arguments.seconds, arguments.profile
            )
            show = lambda times: f"{1e3 * min(times):.2f} / {1e3 * statistics.median(times):.2f}"
            print(
                f"{name}, {threads} thread{'s' if threads > 1 else ''}: host {show(ours)}, onnxruntime {show(theirs)}, "
                f"ratio {min(theirs) / min(ours):.2f} (median {statistics.median(theirs) / statistics.median(ours):.2f}), "
                f"{processor}largest difference {difference:.1e}, load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
            if profile:
                steps = sorted((line.split(" ", 3) for line in profile), key=lambda s: -float(s[0]))
                for step in steps[:40]:
                    print(f"    {1e3 * float(step[0]):8.3f} ms  {step[1]:24} {step[2][:70]} {step[3][:40]}")


if __name__ == "__main__":
    main()
