"""A comparison as a whole process, beside onnx-tool, which merely counts the same file.

Needs a Python with `onnx-tool` (`pip install onnx-tool`) and a release build (`cargo build --release`). Writes ResNet-50 as a
file of 100 MB, then starts both commands in turns, and prints the least and the median time, the most memory of each as
the system accounts for the finished process, and the ratio of the medians (above 1 Orrery is faster).
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
COUNT = """
import sys, numpy, onnx_tool
model = onnx_tool.Model(sys.argv[1])
model.graph.shape_infer({model.graph.input[0]: numpy.zeros((1, 3, 224, 224), numpy.float32)})
model.graph.profile()
"""


def once(command):
    """Seconds and MiB of one run."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{command[0]} failed: {said.decode()}")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default=ROOT / "target/release/orrery", type=pathlib.Path)
    parser.add_argument("--runs", default=7, type=int)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = str(pathlib.Path(folder) / "resnet50.onnx")
        subprocess.run([options.orrery, "export", "resnet50", model, "--quiet"], check=True)
        commands = {
            "orrery": [options.orrery, "compare", model, "--batch", "1,32"],
            "onnx-tool": [sys.executable, "-c", COUNT, model],
        }
        runs = {name: [] for name in commands}
        for number in range(options.runs + 1):
            for name, command in commands.items():
                found = once(command)
                # The first run of each warms the caches.
                if number > 0:
                    runs[name].append(found)
    medians = {}
    for name, found in runs.items():
        times = [seconds for seconds, _ in found]
        medians[name] = statistics.median(times)
        memory = max(memory for _, memory in found)
        print(f"{name:10} least {min(times) * 1e3:7.1f} ms  median {medians[name] * 1e3:7.1f} ms  {memory:5.0f} MiB")
    print(f"ratio of medians {medians['onnx-tool'] / medians['orrery']:.2f}")


if __name__ == "__main__":
    main()
