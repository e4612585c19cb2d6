"""Writes what numpy and ml_dtypes make of number conversions, as little-endian tables for the tests of orrery-numerics.

    python ml_dtypes_tables.py OUTDIR

needs numpy and ml_dtypes alone. Files, each an array without a header:

    VERSIONS               text: the versions that made the tables
    inputs.f32             the binary32 inputs, as bits (u32): every value of each type and of float16 and bfloat16, every
                           midpoint between neighbours, two binary32 to either side of both, and random bits
    inputs.f64             binary64 inputs (u64) around the values and midpoints of float16
    f64_to_fp16.u16        numpy's float16 of each of inputs.f64
    TYPE.decode.f32        the value of each code
    f32_to_TYPE.uN         the code of each of inputs.f32
    fp16_to_TYPE.uN        the code of each of the 65,536 float16, in the order of their bits; bf16 likewise
    integers_to_TYPE.i8    for the integer types of 4 and 2 bits: the value of each of -512..511 as that type
"""

import pathlib
import sys

import ml_dtypes
import numpy as np

NARROW = {
    "e4m3fn": ml_dtypes.float8_e4m3fn,
    "e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
    "e4m3": ml_dtypes.float8_e4m3,
    "e5m2": ml_dtypes.float8_e5m2,
    "e5m2fnuz": ml_dtypes.float8_e5m2fnuz,
    "e2m1": ml_dtypes.float4_e2m1fn,
    "e8m0": ml_dtypes.float8_e8m0fnu,
}
WIDE = {"fp16": np.float16, "bf16": ml_dtypes.bfloat16}
INTEGERS = {
    "i4": ml_dtypes.int4,
    "u4": ml_dtypes.uint4,
    "i2": ml_dtypes.int2,
    "u2": ml_dtypes.uint2,
}
RANDOM_INPUTS = 1 << 18


def unsigned(dtype):
    """The unsigned integer type as wide as dtype."""
    return {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(dtype).itemsize]


def values(name, dtype):
    """The values of all codes of a type, as binary32."""
    codes = 16 if name == "e2m1" else 1 << (8 * np.dtype(dtype).itemsize)
    return np.arange(codes).astype(unsigned(dtype)).view(dtype).astype(np.float32)


def with_midpoints(numbers):
    """The finite numbers in order, and the midpoints between neighbours, as binary64."""
    finite = np.unique(numbers[np.isfinite(numbers)].astype(np.float64))
    return np.concatenate([finite, (finite[1:] + finite[:-1]) / 2])


def f32_inputs():
    """See inputs.f32."""
    near = [with_midpoints(values(*item)) for item in {**NARROW, **WIDE}.items()]
    # Half a step beyond the largest number of each type.
    near += [np.array([sign * (2 * n[-1] - n[-2])]) for n in map(np.sort, near[:]) for sign in (1, -1)]
    with np.errstate(over="ignore"):
        bits = np.concatenate(near).astype(np.float32).view(np.uint32)
    bits = np.concatenate([bits + np.uint32(d & 0xFFFFFFFF) for d in (-2, -1, 0, 1, 2)])
    random = np.random.Generator(np.random.PCG64(1)).integers(0, 1 << 32, RANDOM_INPUTS, dtype=np.uint32)
    special = np.array([0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF], np.uint32)
    return np.unique(np.concatenate([bits, random, special]))


def f64_inputs():
    """See inputs.f64."""
    bits = with_midpoints(values("fp16", np.float16)).view(np.uint64)
    # The last step is invisible in binary32: rounding twice would go wrong there.
    steps = (0, 1, -1, 1 << 20, -(1 << 20))
    return np.unique(np.concatenate([bits + np.uint64(d & 0xFFFFFFFFFFFFFFFF) for d in steps]))


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)

    def write(name, array):
        array = np.ascontiguousarray(array)
        (out / name).write_bytes(array.astype(array.dtype.newbyteorder("<")).tobytes())

    np.seterr(all="ignore")
    inputs = f32_inputs()
    write("inputs.f32", inputs)
    doubles = f64_inputs()
    write("inputs.f64", doubles)
    write("f64_to_fp16.u16", doubles.view(np.float64).astype(np.float16).view(np.uint16))
    for name, dtype in {**NARROW, **WIDE}.items():
        code = unsigned(dtype)
        suffix = f"u{8 * np.dtype(dtype).itemsize}"
        write(f"{name}.decode.f32", values(name, dtype))
        write(f"f32_to_{name}.{suffix}", inputs.view(np.float32).astype(dtype).view(code))
        for source, wide in WIDE.items():
            if source != name:
                every = np.arange(1 << 16).astype(np.uint16).view(wide)
                write(f"{source}_to_{name}.{suffix}", every.astype(dtype).view(code))
    for name, dtype in INTEGERS.items():
        write(f"integers_to_{name}.i8", np.arange(-512, 512).astype(dtype).astype(np.int8))
    (out / "VERSIONS").write_text(f"ml_dtypes {ml_dtypes.__version__}, numpy {np.__version__}\n")


if __name__ == "__main__":
    main()
