"""GPU kernels against NVIDIA's measured tables: how far `orrery validate` is off, by kind, engine, machine and family.

Fetches the wheel `aiconfigurator-core` (Apache-2.0) by pip at a pinned version and hash, turns a sample of its tables of
GEMM, attention and all-reduce for A100 and H100 into rows as `measurements/README.md` sets them out, has
`orrery validate` predict them, and prints the errors. Needs `pyarrow`; nothing of the tables stays in the repository.

The constants with source `aiconfigurator` in `systems/a100-*.toml` and `systems/h100.toml` were fitted to the tables of
SGLang and TensorRT-LLM on the A100, families marked `unseen` left out, and those that say so on the H100. A family is a
pair (n, k) of a GEMM or (heads, kv_heads) of an attention; three in ten are unseen, by a checksum. Never seen: vLLM, and
the H100 apart from the two constants that its file names. `--fit` repeats the fit of the named constants over a sample.
"""

import argparse
import csv
import hashlib
import json
import math
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import zipfile
import zlib

import pyarrow.parquet

ROOT = pathlib.Path(__file__).resolve().parent.parent
VERSION = "0.12.0"
WHEEL = f"aiconfigurator_core-{VERSION}-cp311-abi3-manylinux_2_28_x86_64.whl"
SHA256 = "aadc4aad0a00bf8a61c477c62bef43de479849c3aa0b1c3078068e08309eccc4"
ENGINES = {"sglang": "sglang", "trtllm": "tensorrt_llm", "vllm": "vllm"}
VERSIONS = {
    "a100": {"sglang": "0.5.10", "trtllm": "1.0.0", "vllm": "0.14.0", "nccl": "2.27.3"},
    "h100": {"sglang": "0.5.14", "trtllm": "1.3.0rc20", "vllm": "0.24.0", "nccl": "2.27.3"},
}
SYSTEMS = {"a100": "NVIDIA A100-80GB", "h100": "NVIDIA H100-SXM"}
FILES = {"a100": "a100-80gb", "h100": "h100"}
KINDS = ["gemm", "gemm_fp8", "attention_prefill", "attention_decode", "allreduce"]
# Kinds that no constant of FITTED is fitted to.
UNFITTED = ["gemm_fp8", "allreduce"]
# Constants that --fit looks for, by machine: those of the A100 from the A100, and the two of the H100.
FITTED = {
    "a100": [
        "parameter.kernel_start_cycles",
        "parameter.l2_fraction",
        "parameter.load_bytes_in_flight",
        "loss.matrix_fraction",
        "parameter.operand_fraction",
    ],
    "h100": ["parameter.operand_fraction", "parameter.softmax_overlap"],
}


def fetch(folder):
    """The wheel, in `folder`, with its hash checked."""
    wheel = folder / WHEEL
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        command += ["--platform", "manylinux_2_28_x86_64", "--python-version", "311", "--abi", "abi3"]
        subprocess.run([*command, "--dest", folder, f"aiconfigurator-core=={VERSION}"], check=True)
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{wheel} has sha256 {found}, not {SHA256}")
    return zipfile.ZipFile(wheel)


def table(wheel, machine, folder, engine, name):
    """The rows of one table as dictionaries."""
    path = f"aiconfigurator_core/systems/data/{machine}_sxm/{folder}/{engine}/{VERSIONS[machine][engine]}/{name}.parquet"
    with wheel.open(path) as file:
        return pyarrow.parquet.read_table(file).to_pylist()


def unseen(first, second):
    """Whether the fit left this family out."""
    return zlib.crc32(f"{first},{second}".encode()) % 10 < 3


def gemms(wheel, machine, engine, kind):
    wanted = "fp8" if kind == "gemm_fp8" else "bfloat16"
    for row in table(wheel, machine, "gemm", engine, "gemm_perf"):
        if row["gemm_dtype"] == wanted:
            m, n, k = row["m"], row["n"], row["k"]
            yield {"batch": 1, "m": m, "k": k, "n": n}, (n, k), row["latency"]


def attentions(wheel, machine, engine, kind):
    name = {"attention_prefill": "context", "attention_decode": "generation"}[kind]
    for row in table(wheel, machine, "attention", engine, f"{name}_attention_perf"):
        plain = row["attn_dtype"] == row["kv_cache_dtype"] == "bfloat16" and not row.get("window_size")
        heads, kv_heads, size = row["num_heads"], row["num_key_value_heads"] or row["num_heads"], row["head_dim"]
        # Grouped heads of TensorRT-LLM on the A100 exceed the peak of the memory: these are no times of this work.
        impossible = machine == "a100" and engine == "trtllm" and kind == "attention_decode" and heads != kv_heads
        if not plain or impossible or size > 256:
            continue
        queries = row["isl"]
        keys = queries if kind == "attention_prefill" else row["step"] + 1
        spec = {"batch": row["batch_size"], "q_len": queries, "kv_len": keys, "heads": heads}
        spec |= {"kv_heads": kv_heads, "head_dim": size, "causal": kind == "attention_prefill"}
        yield spec, (heads, kv_heads), row["latency"]


def all_reduces(wheel, machine):
    for row in table(wheel, machine, "comm", "nccl", "nccl_perf"):
        if row["op_name"] == "all_reduce" and row["nccl_dtype"] == "half":
            spec = {"bytes": 2 * row["message_size"], "ranks": row["num_gpus"]}
            yield spec, None, row["latency"]


def sampled(wheel, machines, count, seed):
    """Rows of a measurements file, and of each what it is: kind, machine, engine, seen."""
    rows, about = [], []
    for machine in machines:
        for kind in KINDS:
            for engine in ["nccl"] if kind == "allreduce" else ENGINES:
                if kind.startswith("gemm"):
                    found = gemms(wheel, machine, engine, kind)
                elif kind == "allreduce":
                    found = all_reduces(wheel, machine)
                else:
                    found = attentions(wheel, machine, engine, kind)
                # Repeated measurements of one size count once.
                sizes = {}
                for spec, family, latency in found:
                    sizes.setdefault(json.dumps(spec), (family, []))[1].append(latency)
                parts = {False: [], True: []}
                for spec, (family, times) in sorted(sizes.items()):
                    left_out = family is not None and unseen(*family)
                    parts[left_out].append((spec, statistics.median(times)))
                for left_out, part in parts.items():
                    part = random.Random(seed).sample(part, min(count, len(part)))
                    for spec, time in part:
                        rows.append(as_row(len(rows), machine, kind, engine, spec, time))
                        about.append((kind, machine, engine, "unseen" if left_out else "seen"))
    return rows, about


def as_row(number, machine, kind, engine, spec, latency):
    spec_of = json.loads(spec)
    mode = {"attention_prefill": "prefill", "attention_decode": "decode", "allreduce": "collective"}
    return {
        "id": f"row{number}",
        "system": SYSTEMS[machine],
        "devices": spec_of.get("ranks", 1),
        "workload": "gemm" if kind == "gemm_fp8" else kind,
        "mode": mode.get(kind, "primitive"),
        "precision": {"allreduce": "fp16", "gemm_fp8": "fp8"}.get(kind, "bf16"),
        "batch_size": spec_of.get("batch", ""),
        "stack": ENGINES.get(engine, "pytorch"),
        "scope": "device",
        "spec": spec,
        "metric": "latency_ms",
        "value": repr(latency),
        "unit": "ms",
        "scored": "yes",
        "source": f"aiconfigurator-core {VERSION}, {engine} {VERSIONS[machine][engine]}",
    }


def ratios(orrery, rows, systems=()):
    """Predicted over measured, row by row; none where a row is not modelled."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.csv"
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
        command = [orrery, "validate", path, "--json"]
        for system in systems:
            command += ["--system", system]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)["rows"]
    for row in found:
        if row["ratio"] is None:
            print(f"{row['workload']} {row['system']}: {row['note']}", file=sys.stderr)
    return [row["ratio"] for row in found]


def report(about, found):
    groups = {}
    for key, ratio in zip(about, found):
        # A row that is not modelled counts as wrong by a factor of two.
        groups.setdefault(key, []).append(2.0 if ratio is None else ratio)
    print(f"{'kind':18} {'machine':8} {'engine':8} {'families':8} {'n':>5} {'median':>7} {'mean':>7} {'p90':>7} {'bias':>6}")
    for key, part in groups.items():
        errors = sorted(abs(ratio - 1) for ratio in part)
        bias = statistics.geometric_mean(part)
        numbers = [statistics.median(errors), statistics.mean(errors), errors[int(0.9 * (len(errors) - 1))]]
        texts = " ".join(f"{100 * number:6.1f}%" for number in numbers)
        print(f"{key[0]:18} {key[1]:8} {key[2]:8} {key[3]:8} {len(part):5} {texts} {bias:6.2f}")


def loss(orrery, rows, text, name):
    """Mean of |ln ratio|, each at most 0.7, with the system file `text` in the place of the built-in one."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "fit.toml"
        path.write_text(text)
        found = ratios(orrery, rows, [path])
    return statistics.mean(0.7 if r is None else min(0.7, abs(math.log(r))) for r in found)


def fit(orrery, rows, machine):
    """Coordinate search over the constants of a machine; prints what it ends with."""
    text = (ROOT / "systems" / f"{FILES[machine]}.toml").read_text()
    text = re.sub(r'(?m)^name = "[^"]*"', 'name = "fit"', text, count=1)
    text = re.sub(r"(?m)^aliases = \[[^\]]*\]", "aliases = []", text, count=1)
    rows = [{**row, "system": "fit"} for row in rows]
    best, step = loss(orrery, rows, text, machine), 0.12
    while step > 0.01:
        improved = False
        for key in FITTED[machine]:
            pattern = re.compile(rf"(\[{re.escape(key)}\]\nvalue = )([0-9.e_+-]+)")
            value = float(pattern.search(text)[2].replace("_", ""))
            for factor in (1 + step, 1 / (1 + step)):
                changed = value * factor
                if key.endswith(("fraction", "overlap")):
                    changed = min(changed, 1.0)
                other = pattern.sub(rf"\g<1>{changed:.6g}", text)
                at = loss(orrery, rows, other, machine)
                if at < best:
                    best, text, improved = at, other, True
                    break
        if not improved:
            step /= 2
    for key in FITTED[machine]:
        value = re.search(rf"\[{re.escape(key)}\]\nvalue = ([0-9.e_+-]+)", text)[1]
        print(f"{machine} {key} = {value}   mean |ln ratio| {best:.4f} over {len(rows)} rows")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orrery", default=ROOT / "target/release/orrery", type=pathlib.Path)
    parser.add_argument("--cache", default=ROOT / ".cache", type=pathlib.Path, help="where the wheel is kept")
    parser.add_argument("--rows", default=400, type=int, help="at most so many of each kind, engine and part")
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--machine", choices=SYSTEMS, action="append", help="only this one")
    parser.add_argument("--fit", action="store_true", help="look for the constants of the machines instead")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    wheel = fetch(options.cache)
    rows, about = sampled(wheel, options.machine or list(SYSTEMS), options.rows, options.seed)
    if not options.fit:
        report(about, ratios(options.orrery, rows))
        return
    for machine in options.machine or list(SYSTEMS):
        taken = [
            row
            for row, (kind, on, engine, seen) in zip(rows, about)
            if on == machine and seen == "seen" and engine in ("sglang", "trtllm") and kind not in UNFITTED
        ]
        fit(options.orrery, taken, machine)


if __name__ == "__main__":
    main()
