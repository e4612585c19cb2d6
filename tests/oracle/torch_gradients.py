"""Gradients of whole networks by PyTorch, of their exports' weights.

    torch_gradients.py

Writes FILE.gradients.npz beside exports of `exports/` and the export of an LSTM network, exports/lstm/. The loss is the sum
of all outputs' elements, each times the cosine of its index. An array holds the gradient of one parameter, of more than
MOST elements only every n-th so that so many are left; its name says which weights of the file the parameter became,
`+` between them, `^T` behind those that stand transposed: their gradients add up to that of the parameter. `NAME#norm`
is the root of the sum of the squares of all elements. Needs what `exports/make_exports.py` needs; the files are checked in.
Made with torch 2.15.0 on the CPU.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import torch

HERE = Path(__file__).resolve().parent
EXPORTS = HERE.parent / "exports"
sys.path.insert(0, str(EXPORTS))
import make_exports  # noqa: E402

MOST = 256
CASES = {
    "resnet": ["torchscript-17-batchnorm"],
    "bert_sdpa": ["dynamo-25"],
    "bert_manual": ["torchscript-13"],
    "gpt_sdpa": ["torchscript-17"],
}


class Lstm(torch.nn.Module):
    """Two directions, then one over what they make."""

    def __init__(self):
        super().__init__()
        self.both = torch.nn.LSTM(6, 8, bidirectional=True)
        self.one = torch.nn.LSTM(16, 5)
        self.head = torch.nn.Linear(5, 3)

    def forward(self, x):
        x, _ = self.both(x)
        x, (last, _) = self.one(x)
        return self.head(x), last


def loss_of(outputs):
    total = 0.0
    for output in outputs:
        factors = torch.cos(torch.arange(output.numel(), dtype=torch.float64)).to(output.dtype)
        total = total + (output.flatten() * factors).sum()
    return total


def gates(tensor):
    """PyTorch's gates input, forget, cell, output in ONNX's order input, output, forget, cell."""
    i, f, g, o = tensor.chunk(4)
    return torch.cat([i, o, f, g])


def stacked(module, of):
    """The weights of an LSTM as ONNX has them; `of` gives what is asked for of a parameter."""
    part = lambda kind, way: gates(of(getattr(module, f"{kind}_l0{way}")))
    ways = ["", "_reverse"] if module.bidirectional else [""]
    yield "W", torch.stack([part("weight_ih", way) for way in ways])
    yield "R", torch.stack([part("weight_hh", way) for way in ways])
    yield "B", torch.stack([torch.cat([part("bias_ih", way), part("bias_hh", way)]) for way in ways])


def parameters(network):
    """Names, values and gradients of everything that is trained."""
    inside = set()
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.LSTM):
            inside |= {f"{name}.{own}" for own, _ in module.named_parameters()}
            values, gradients = stacked(module, lambda p: p.detach()), stacked(module, lambda p: p.grad)
            for (kind, value), (_, gradient) in zip(values, gradients):
                yield f"{name}.{kind}", value.numpy(), gradient.numpy()
    for name, parameter in network.named_parameters():
        if name not in inside:
            yield name, parameter.detach().numpy(), parameter.grad.numpy()


def weights(path):
    """Constants of the main graph by name."""
    graph = onnx.load(path).graph
    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
    return {name: array for name, array in found.items() if array.dtype == np.float32 and array.ndim > 0}


def store(network, inputs, path):
    network.zero_grad()
    outputs = network(*inputs.values())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss = loss_of(outputs)
    loss.backward()
    constants, arrays = weights(path), {"loss": loss.detach().numpy().reshape(1)}
    for name, value, gradient in parameters(network):
        same = [key for key, array in constants.items() if np.array_equal(array, value)]
        turned = [
            f"{key}^T"
            for key, array in constants.items()
            if array.ndim == 2 and key not in same and np.array_equal(array.T, value)
        ]
        assert same or turned, f"{path}: {name} is not in the file"
        key = "+".join(same + turned)
        assert key not in arrays, f"{path}: {name} cannot be told from others"
        step = -(-gradient.size // MOST)
        arrays[key] = np.ascontiguousarray(gradient).reshape(-1)[::step].astype(np.float32)
        arrays[f"{key}#norm"] = np.array([np.linalg.norm(gradient)], dtype=np.float32)
    np.savez(path.with_suffix(".gradients.npz"), **arrays)
    print(f"{path.relative_to(EXPORTS)}: {len(arrays) // 2} parameters, loss {loss.item():.6f}")


def main():
    for name, files in CASES.items():
        build, _, examples, _ = make_exports.NETWORKS[name]
        network = make_exports.seeded(build(), seed=20)
        for file in files:
            store(network, examples[0], EXPORTS / name / f"{file}.onnx")
    torch.manual_seed(30)
    network = Lstm().eval()
    inputs = {"x": torch.randn(5, 2, 6)}
    folder = EXPORTS / "lstm"
    folder.mkdir(exist_ok=True)
    path = folder / "torchscript-17.onnx"
    axes = {"inputs": {"x": {}}, "outputs": {"y": {}, "last": {}}}
    make_exports.export_torchscript(network, axes, inputs, 17, path)
    np.savez(folder / "0.input.npz", **{key: value.numpy() for key, value in inputs.items()})
    store(network, inputs, path)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    main()
