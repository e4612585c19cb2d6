"""all-MiniLM-L6-v2 as an ONNX model, built from its configuration and safetensors file.

The package ships no ONNX file; this one is written op by op, with GELU spelled out by Erf and batch and sequence
left symbolic. Outputs: `last_hidden_state`, and `sentence_embedding`, which is the mean over the real tokens, scaled
to length one.
"""

import json
import struct
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


def read_safetensors(path):
    """All tensors of a float32 safetensors file, by name."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] != "F32":
            continue
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(data[start:end], dtype="<f4").reshape(entry["shape"])
    return tensors


class Builder:
    """Collects nodes and initializers; every method gives the name of its result."""

    def __init__(self, weights):
        self.weights = weights
        self.nodes = []
        self.initializers = {}

    def constant(self, name, value):
        self.initializers.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(self, name):
        return self.constant(name, self.weights[name])

    def op(self, kind, inputs, result, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [result], name=result, **attributes))
        return result

    def linear(self, x, prefix, result):
        transposed = self.constant(f"{prefix}.weight.transposed", self.weights[f"{prefix}.weight"].T)
        product = self.op("MatMul", [x, transposed], f"{result}/product")
        return self.op("Add", [product, self.weight(f"{prefix}.bias")], result)

    def layer_norm(self, x, prefix, epsilon, result):
        inputs = [x, self.weight(f"{prefix}.weight"), self.weight(f"{prefix}.bias")]
        return self.op("LayerNormalization", inputs, result, axis=-1, epsilon=epsilon)


def attention(b, config, x, mask, prefix):
    heads = config["num_attention_heads"]
    width = config["hidden_size"] // heads
    split = b.constant("split_heads", np.array([0, 0, heads, width], dtype=np.int64))
    merge = b.constant("merge_heads", np.array([0, 0, heads * width], dtype=np.int64))

    def projected(name, permutation):
        full = b.linear(x, f"{prefix}.self.{name}", f"{prefix}/{name}")
        parted = b.op("Reshape", [full, split], f"{prefix}/{name}/heads")
        return b.op("Transpose", [parted], f"{prefix}/{name}/transposed", perm=permutation)

    query = projected("query", [0, 2, 1, 3])
    key = projected("key", [0, 2, 3, 1])
    value = projected("value", [0, 2, 1, 3])
    scores = b.op("MatMul", [query, key], f"{prefix}/scores")
    scale = b.constant("attention_scale", np.array(np.sqrt(width), dtype=np.float32))
    scaled = b.op("Div", [scores, scale], f"{prefix}/scaled")
    masked = b.op("Add", [scaled, mask], f"{prefix}/masked")
    weights = b.op("Softmax", [masked], f"{prefix}/weights", axis=-1)
    mixed = b.op("MatMul", [weights, value], f"{prefix}/mixed")
    ordered = b.op("Transpose", [mixed], f"{prefix}/ordered", perm=[0, 2, 1, 3])
    merged = b.op("Reshape", [ordered, merge], f"{prefix}/merged")
    return b.linear(merged, f"{prefix}.output.dense", f"{prefix}/output")


def gelu(b, x, prefix):
    root = b.constant("root_of_two", np.array(np.sqrt(2.0), dtype=np.float32))
    one = b.constant("one", np.array(1.0, dtype=np.float32))
    half = b.constant("half", np.array(0.5, dtype=np.float32))
    ratio = b.op("Div", [x, root], f"{prefix}/gelu/ratio")
    error = b.op("Erf", [ratio], f"{prefix}/gelu/erf")
    shifted = b.op("Add", [error, one], f"{prefix}/gelu/shifted")
    product = b.op("Mul", [x, shifted], f"{prefix}/gelu/product")
    return b.op("Mul", [product, half], f"{prefix}/gelu")


def build(folder):
    """The model, from a folder with config.json and model.safetensors."""
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    epsilon = config["layer_norm_eps"]
    b = Builder(read_safetensors(folder / "model.safetensors"))

    words = b.op("Gather", [b.weight("embeddings.word_embeddings.weight"), "input_ids"], "words")
    kinds = b.op("Gather", [b.weight("embeddings.token_type_embeddings.weight"), "token_type_ids"], "kinds")
    first = b.constant("first", np.array([0], dtype=np.int64))
    second = b.constant("second", np.array([1], dtype=np.int64))
    length = b.op("Gather", [b.op("Shape", ["input_ids"], "shape"), second], "length", axis=0)
    longest = config["max_position_embeddings"]
    positions = b.constant("position_ids", np.arange(longest, dtype=np.int64)[None])
    positions = b.op("Slice", [positions, first, length, second, second], "positions")
    places = b.op("Gather", [b.weight("embeddings.position_embeddings.weight"), positions], "places")
    x = b.op("Add", [b.op("Add", [words, kinds], "words_and_kinds"), places], "embedded")
    x = b.layer_norm(x, "embeddings.LayerNorm", epsilon, "embeddings")

    real = b.op("Cast", ["attention_mask"], "mask/float", to=TensorProto.FLOAT)
    axes = b.constant("mask_axes", np.array([1, 2], dtype=np.int64))
    broad = b.op("Unsqueeze", [real, axes], "mask/broad")
    absent = b.op("Sub", [b.constant("one", np.array(1.0, dtype=np.float32)), broad], "mask/absent")
    lowest = b.constant("lowest", np.array(np.finfo(np.float32).min, dtype=np.float32))
    mask = b.op("Mul", [absent, lowest], "mask/additive")

    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        attended = attention(b, config, x, mask, f"{prefix}.attention")
        summed = b.op("Add", [attended, x], f"{prefix}/attended")
        x = b.layer_norm(summed, f"{prefix}.attention.output.LayerNorm", epsilon, f"{prefix}/normed")
        inner = gelu(b, b.linear(x, f"{prefix}.intermediate.dense", f"{prefix}/inner"), prefix)
        outer = b.linear(inner, f"{prefix}.output.dense", f"{prefix}/outer")
        summed = b.op("Add", [outer, x], f"{prefix}/sum")
        result = "last_hidden_state" if layer == config["num_hidden_layers"] - 1 else f"{prefix}/result"
        x = b.layer_norm(summed, f"{prefix}.output.LayerNorm", epsilon, result)

    last = b.constant("last_axis", np.array([-1], dtype=np.int64))
    sequence = b.constant("sequence_axis", np.array([1], dtype=np.int64))
    column = b.op("Unsqueeze", [real, last], "pool/mask")
    kept = b.op("Mul", [x, column], "pool/kept")
    total = b.op("ReduceSum", [kept, sequence], "pool/total", keepdims=0)
    count = b.op("ReduceSum", [column, sequence], "pool/count", keepdims=0)
    mean = b.op("Div", [total, count], "pool/mean")
    norm = b.op("ReduceL2", [mean], "pool/norm", axes=[1], keepdims=1)
    b.op("Div", [mean, norm], "sentence_embedding")

    width = config["hidden_size"]
    tokens = ["batch", "sequence"]
    names = ["input_ids", "attention_mask", "token_type_ids"]
    graph = helper.make_graph(
        b.nodes,
        "all-MiniLM-L6-v2",
        [helper.make_tensor_value_info(name, TensorProto.INT64, tokens) for name in names],
        [
            helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, [*tokens, width]),
            helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", width]),
        ],
        list(b.initializers.values()),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def token_ids(folder, sentences):
    """Inputs for sentences whose words are all whole entries of the vocabulary, padded to the longest."""
    vocabulary = {word: i for i, word in enumerate((Path(folder) / "vocab.txt").read_text().splitlines())}
    rows = [[vocabulary[word] for word in ["[CLS]", *sentence.split(), "[SEP]"]] for sentence in sentences]
    length = max(map(len, rows))
    pad = vocabulary["[PAD]"]
    ids = np.array([row + [pad] * (length - len(row)) for row in rows], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (length - len(row)) for row in rows], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
