"""Training on the host against PyTorch on the CPU: the same networks, batches and optimizer, in turns.

    train_vs_pytorch.py [--only NAME] [--threads N...] [--seconds S] [--profile]

Needs a release build of the examples (`cargo build --release --workspace --examples`) and a Python with PyTorch; where
this one has none, a virtual environment is made in the cache and PyTorch is installed there from the package index. The
package brings what it needs on GPUs, several GB; `--without-gpu` installs it alone and puts empty libraries in their
place (needs a C compiler), which is enough on the CPU and 1.4 GB.

A step is forward, backward and Adam in binary32 on a batch that stays the same. For each network and number of threads
it prints samples in a second of both by the least time of a step, the ratio (above 1 the host is faster), that of the
median times, with one thread also that of the processor times (on Linux; others' work does not count in them), and the
machine's load, to which others than these two may add. Both run in short bursts in turns, so that whatever else the
machine does falls on both sides alike.
"""

import argparse
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = pathlib.Path(os.environ.get("ORRERY_CACHE", ROOT / ".cache"))
VENV = CACHE / "torch-venv"
# What PyTorch's libraries need to be loaded, as packages that are small.
SMALL = ["nvidia-cuda-runtime", "nvidia-cuda-cupti", "nvidia-cufile"]
NEEDS = ["typing_extensions", "sympy", "networkx", "jinja2", "fsspec", "filelock", "numpy", "setuptools>=77"]


def install(without_gpu):
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip = [VENV / "bin/pip", "install", "--quiet"]
    if not without_gpu:
        subprocess.run([*pip, "torch", "numpy"], check=True)
        return
    subprocess.run([*pip, "--no-deps", "torch", *SMALL], check=True)
    subprocess.run([*pip, *NEEDS], check=True)
    packages = next(VENV.glob("lib/python*/site-packages"))
    stand_ins(packages / "torch/lib", packages)


def stand_ins(folder, packages):
    """For each library that those in `folder` need and nobody brings: one whose functions do nothing."""
    out = lambda *command: subprocess.run(command, capture_output=True, text=True, check=True).stdout
    here = {file.name for file in [*folder.glob("lib*.so*"), *packages.glob("nvidia/*/lib/lib*.so*")]}
    missing, library_of, symbols = set(), {}, {}
    for file in folder.glob("lib*.so"):
        needed = re.findall(r"NEEDED.*\[(.*)\]", out("readelf", "-d", str(file)))
        missing |= {name for name in needed if re.match(r"lib(cu|nv|nccl)", name) and name not in here}
        library = None
        for line in out("readelf", "-V", str(file)).splitlines():
            if found := re.search(r"File: (\S+)", line):
                library = found[1]
            elif (found := re.search(r"Name: (\S+)", line)) and library:
                library_of[found[1]] = library
        for line in out("nm", "-D", "--undefined-only", str(file)).splitlines():
            name, _, version = line.split()[-1].partition("@")
            symbols.setdefault(version.lstrip("@"), set()).add(name)
    for library in sorted(missing - {"libcuda.so.1"}):
        versions = {v: names for v, names in symbols.items() if library_of.get(v) == library}
        stem = re.match(r"lib([A-Za-z]+)", library)[1].lower()
        plain = {n for n in symbols.get("", ()) if n.lower().startswith((stem, "p" + stem))}
        names = set().union(*versions.values()) if versions else plain
        code = "".join(f"int {name}(void) {{ return 1; }}\n" for name in sorted(names))
        script = "".join(f"{v} {{ {' '.join(n + ';' for n in sorted(names))} }};\n" for v, names in versions.items())
        source, exported = VENV / "stand_in.c", VENV / "stand_in.map"
        source.write_text(code)
        exported.write_text(script)
        command = ["cc", "-shared", "-fno-builtin", "-w", "-o", folder / library, f"-Wl,-soname,{library}", source]
        subprocess.run(command + ([f"-Wl,--version-script={exported}"] if versions else []), check=True)


def networks(torch):
    """Name, model and options of `train_run`, batch, loss, the network, its inputs and labels."""
    nn = torch.nn

    class NonLocal(nn.Module):
        def __init__(self):
            super().__init__()
            self.theta, self.phi, self.g = (nn.Conv2d(64, 32, 1) for _ in range(3))
            self.out = nn.Conv2d(32, 64, 1)

        def forward(self, x):
            n, _, h, w = x.shape
            theta, phi, g = (conv(x).reshape(n, 32, h * w) for conv in (self.theta, self.phi, self.g))
            weights = torch.softmax(theta.transpose(1, 2) @ phi, -1)
            mixed = (weights @ g.transpose(1, 2)).transpose(1, 2).reshape(n, 32, h, w)
            return self.out(mixed) + x

    class Block(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.heads = heads
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            n, length, width = x.shape
            split = lambda t: t.reshape(n, length, self.heads, -1).transpose(1, 2)
            q, k, v = (split(t) for t in self.qkv(self.norm1(x)).chunk(3, -1))
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(mixed.transpose(1, 2).reshape(n, length, width))
            return x + self.down(nn.functional.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self, layers, width, heads, words, positions):
            super().__init__()
            self.words, self.positions = nn.Embedding(words, width), nn.Embedding(positions, width)
            self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
            self.norm = nn.LayerNorm(width)

        def forward(self, tokens):
            x = self.words(tokens) + self.positions(torch.arange(tokens.shape[1]))
            return (self.norm(self.blocks(x)) @ self.words.weight.T).transpose(1, 2)

    leaky = lambda: nn.LeakyReLU(0.01)
    dense = [layer for a, b in [(200, 16), (16, 8), (8, 4), (4, 2)] for layer in (nn.Linear(a, b), leaky())]
    braggnn = nn.Sequential(
        nn.Conv2d(1, 64, 3), NonLocal(), leaky(), nn.Conv2d(64, 32, 3), leaky(), nn.Conv2d(32, 8, 3), leaky(),
        nn.Flatten(), *dense, nn.Linear(2, 2),
    )  # fmt: skip
    mnist = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.ReLU(),
        nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    classes = lambda *shape: torch.randint(0, 10, shape)
    cross_entropy, mse = nn.functional.cross_entropy, nn.functional.mse_loss
    tokens = classes(8, 128)
    return [
        ("BraggNN batch 512", ["braggnn", "512"], "mse", mse, braggnn, torch.randn(512, 1, 11, 11), torch.randn(512, 2)),
        ("MNIST CNN batch 64", ["mnist_cnn", "64"], "cross-entropy", cross_entropy, mnist, torch.randn(64, 1, 28, 28), classes(64)),
        ("GPT, 1 block of width 256, 8 x 128 tokens", ["gpt_tiny", "8"], "cross-entropy", cross_entropy,
         Gpt(1, 256, 8, 256, 256), tokens, classes(8, 128)),
    ]  # fmt: skip


OPTIONS = {"gpt_tiny": ["seq=128", "layers=1"]}


class Host:
    """The example program over one model."""

    def __init__(self, program, model, threads, loss):
        command = [program, *model, str(threads), loss, *OPTIONS.get(model[0], [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("train_run ended early")
        return line.strip()

    def ask(self, line):
        print(line, file=self.process.stdin, flush=True)
        return self.answer()

    def run(self, count):
        return [float(x) for x in self.ask(f"run {count}").split()]

    def profile(self):
        line, lines = self.ask("profile"), []
        while line:
            lines.append(line.split(" ", 3))
            line = self.answer()
        return sorted(lines, key=lambda step: -float(step[0]))

    def processor_time(self):
        """Seconds that it has computed so far; none where the system does not tell."""
        try:
            tasks = pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/schedstat")
            return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9 or None
        except OSError:
            return None

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(torch, program, network, threads, seconds, show_profile):
    name, model, loss_name, loss, net, data, labels = network
    torch.set_num_threads(threads)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step():
        start = time.perf_counter()
        adam.zero_grad()
        loss(net(data), labels).backward()
        adam.step()
        return time.perf_counter() - start

    ours = Host(program, model, threads, loss_name)
    ours.run(1)
    step()
    our_times, their_times = [], []
    our_start, their_computing = ours.processor_time(), 0.0
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(our_times) < 6:
        our_times += ours.run(3)
        start = time.process_time()
        their_times += [step() for _ in range(3)]
        their_computing += time.process_time() - start
    computing = ""
    if threads == 1 and our_start is not None:
        computing = f", processor time {their_computing / (ours.processor_time() - our_start):.2f}"
    rate = lambda times: f"{len(data) / min(times):.0f}"
    middle = statistics.median(their_times) / statistics.median(our_times)
    print(
        f"{name}, {threads} thread{'s' if threads > 1 else ''}: host {rate(our_times)} samples/s, PyTorch {rate(their_times)}, "
        f"ratio {min(their_times) / min(our_times):.2f} (median {middle:.2f}{computing}), load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
    if show_profile:
        for at, kernel, ops, node in ours.profile()[:40]:
            print(f"    {1e3 * float(at):8.3f} ms  {kernel:32} {ops[:70]} {node[:40]}")
    ours.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(ROOT / "target/release/examples/train_run"))
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=15.0, help="time for each network and number of threads")
    parser.add_argument("--only", default="", help="networks whose names contain this")
    parser.add_argument("--profile", action="store_true", help="also print the host's time by step")
    parser.add_argument("--without-gpu", action="store_true", help="install PyTorch without its libraries for GPUs")
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        python = VENV / "bin/python"
        if pathlib.Path(sys.prefix) == VENV:
            raise
        if not python.exists():
            install(arguments.without_gpu)
        os.execv(python, [str(python), *sys.argv])
    print(f"PyTorch {torch.__version__}")
    torch.manual_seed(1)
    for network in networks(torch):
        for threads in arguments.threads:
            if arguments.only in network[0]:
                measure(torch, arguments.program, network, threads, arguments.seconds, arguments.profile)


if __name__ == "__main__":
    main()
