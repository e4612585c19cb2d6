"""Export the networks of models.py with both of PyTorch's exporters, with what PyTorch computes for them.

    make_exports.py [NAME...]

Writes, beside this file, NAME/torchscript-OPSET.onnx and NAME/dynamo-OPSET.onnx, and for two sizes of batch and
sequence NAME/CASE.input.npz and NAME/CASE.output.npz. Weights and inputs are seeded. Needs torch, onnxscript and
onnxruntime, which no test needs; the files are checked in. Made with torch 2.15.0 on the CPU.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import torch

import models

HERE = Path(__file__).resolve().parent
# The newest opset keeps whole ops (Attention, LayerNormalization, Gelu); the older one has attention spelled out.
DYNAMO_OPSETS = [18, 25]
LIMIT = 300_000
TOLERANCE = 1e-5


def seeded(network, seed):
    """Random weights large enough that every layer matters, and batch statistics as after training."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, scale, mean=0.0):
        tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale + mean)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                normal(module.weight, module.weight[0].numel() ** -0.5)
                if module.bias is not None:
                    normal(module.bias, 0.1)
            elif isinstance(module, torch.nn.Embedding):
                normal(module.weight, 0.5)
            elif isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm2d)):
                normal(module.weight, 0.2, 1.0)
                normal(module.bias, 0.2)
            if isinstance(module, torch.nn.BatchNorm2d):
                normal(module.running_mean, 0.3)
                module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return network.eval()


def image(seed, batch, size):
    return {"image": torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))}


def sentence(seed, batch, length):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[-1, length - 2 :] = 0
    return {
        "input_ids": torch.randint(0, 128, (batch, length), generator=generator),
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, (batch, length), generator=generator),
    }


def tokens(seed, batch, length):
    return {"input_ids": torch.randint(0, 96, (batch, length), generator=torch.Generator().manual_seed(seed))}


def tokens_with_past(seed, batch, length, past):
    generator = torch.Generator().manual_seed(seed)
    inputs = tokens(seed, batch, length)
    for name in CACHE:
        inputs[f"past_{name}"] = torch.randn(batch, 4, past, 8, generator=generator)
    return inputs


CACHE = ["key_0", "value_0", "key_1", "value_1"]
TEXT = {0: "batch", 1: "sequence"}
BERT = {"inputs": {"input_ids": TEXT, "attention_mask": TEXT, "token_type_ids": TEXT}}
BERT["outputs"] = {"last_hidden_state": TEXT, "pooler_output": {0: "batch"}}
GPT = {"inputs": {"input_ids": TEXT}, "outputs": {"logits": TEXT}}
PAST, PRESENT = {0: "batch", 2: "past"}, {0: "batch", 2: "total"}
GPT_CACHE = {"inputs": {"input_ids": TEXT, **{f"past_{name}": PAST for name in CACHE}}}
GPT_CACHE["outputs"] = {"logits": TEXT, **{f"present_{name}": PRESENT for name in CACHE}}
RESNET = {"inputs": {"image": {0: "batch"}}, "outputs": {"logits": {0: "batch"}}}

TEXT_CASES = [sentence(1, 2, 7), sentence(2, 3, 20)]
TOKEN_CASES = [tokens(3, 2, 7), tokens(4, 1, 24)]
# Decode one token at three context lengths, a chunk of a prompt, and a prompt with nothing before it.
PAST_CASES = [
    tokens_with_past(5, 2, 3, 5),
    tokens_with_past(6, 1, 1, 1),
    tokens_with_past(7, 2, 1, 8),
    tokens_with_past(8, 1, 1, 31),
    tokens_with_past(9, 2, 6, 0),
]

# Name: the network, its dynamic axes, its cases, and the TorchScript exporter's opsets.
NETWORKS = {
    "resnet": (lambda: models.ResNet(), RESNET, [image(10, 2, 32), image(11, 1, 32)], [13, 17]),
    "bert_sdpa": (lambda: models.Bert(models.attention_by_framework), BERT, TEXT_CASES, [17]),
    "bert_manual": (lambda: models.Bert(models.attention_by_hand), BERT, TEXT_CASES, [13, 17]),
    "gpt_sdpa": (lambda: models.Gpt(True), GPT, TOKEN_CASES, [17]),
    "gpt_manual": (lambda: models.Gpt(False), GPT, TOKEN_CASES, [13, 17]),
    "gpt_cache": (lambda: models.GptWithCache(False), GPT_CACHE, PAST_CASES, [17]),
    "gpt_cache_sdpa": (lambda: models.GptWithCache(True), GPT_CACHE, PAST_CASES, [17]),
}


def export_torchscript(network, axes, inputs, opset, path, keep_batch_norm=False):
    mode = torch.onnx.TrainingMode.PRESERVE if keep_batch_norm else torch.onnx.TrainingMode.EVAL
    torch.onnx.export(
        network,
        tuple(inputs.values()),
        str(path),
        dynamo=False,
        opset_version=opset,
        training=mode,
        input_names=list(axes["inputs"]),
        output_names=list(axes["outputs"]),
        dynamic_axes={**axes["inputs"], **axes["outputs"]},
    )


def export_dynamo(network, axes, inputs, opset, path):
    names = sorted({name for value in axes["inputs"].values() for name in value.values()})
    sizes = {name: torch.export.Dim(name, min=1) if name == "past" else torch.export.Dim(name) for name in names}
    shapes = {name: {axis: sizes[size] for axis, size in value.items()} for name, value in axes["inputs"].items()}
    torch.onnx.export(
        network,
        tuple(inputs.values()),
        str(path),
        dynamo=True,
        external_data=False,
        opset_version=opset,
        input_names=list(axes["inputs"]),
        output_names=list(axes["outputs"]),
        dynamic_shapes=shapes,
    )
    hide_paths(path)


def hide_paths(path):
    """Make the stack traces in the file's metadata relative: to this folder, or to the installed packages."""
    model = onnx.load(path)
    prefixes = [f"{HERE}/", f"{Path(torch.__file__).resolve().parents[1]}/"]

    def clean(properties):
        for entry in properties:
            for prefix in prefixes:
                entry.value = entry.value.replace(prefix, "")

    for graph in [model.graph, *model.functions]:
        clean(graph.metadata_props)
        for item in [*graph.node, *graph.value_info]:
            clean(item.metadata_props)
    for item in [*model.graph.input, *model.graph.output, *model.graph.initializer]:
        clean(item.metadata_props)
    onnx.save(model, path)


def runtime(path):
    """A function from inputs to outputs: ONNX Runtime, or onnx's own evaluator for what it refuses."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    reference = onnx.reference.ReferenceEvaluator(str(path))

    def run(names, inputs):
        inputs = {value.name: inputs[value.name] for value in session.get_inputs()}
        try:
            return session.run(names, inputs)
        except Exception as error:
            # Its Attention does not broadcast a mask over the queries, which the standard allows.
            assert "Attention" in str(error), error
            print(f"{path.relative_to(HERE)}: refused by ONNX Runtime, checked with onnx's evaluator")
            return reference.run(names, inputs)

    return run


def verify(path, cases):
    """The file is small, valid, and a runtime gets what PyTorch got."""
    assert path.stat().st_size < LIMIT, f"{path}: {path.stat().st_size} bytes"
    onnx.checker.check_model(str(path), full_check=True)
    run = runtime(path)
    worst = 0.0
    for inputs, expected in cases:
        for value, wanted in zip(run(list(expected), inputs), expected.values()):
            worst = max(worst, float(np.abs(value - wanted).max() / np.abs(wanted).max()))
    assert worst < TOLERANCE, f"{path}: differs from PyTorch by {worst}"
    print(f"{path.relative_to(HERE)}: {path.stat().st_size:,} bytes, against PyTorch {worst:.1e}")


def make(name):
    build, axes, examples, opsets = NETWORKS[name]
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    network = seeded(build(), seed=20)
    cases = []
    for index, inputs in enumerate(examples):
        with torch.no_grad():
            outputs = network(*inputs.values())
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        arrays = {key: value.numpy() for key, value in inputs.items()}
        results = {key: value.numpy() for key, value in zip(axes["outputs"], outputs)}
        np.savez(folder / f"{index}.input.npz", **arrays)
        np.savez(folder / f"{index}.output.npz", **results)
        cases.append((arrays, results))

    paths = []
    for opset in opsets:
        paths.append(folder / f"torchscript-{opset}.onnx")
        export_torchscript(network, axes, examples[0], opset, paths[-1])
    if name == "resnet":
        paths.append(folder / "torchscript-17-batchnorm.onnx")
        export_torchscript(network, axes, examples[0], 17, paths[-1], keep_batch_norm=True)
    for opset in DYNAMO_OPSETS:
        paths.append(folder / f"dynamo-{opset}.onnx")
        export_dynamo(network, axes, examples[0], opset, paths[-1])
    for path in paths:
        verify(path, cases)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    for chosen in sys.argv[1:] or NETWORKS:
        make(chosen)
