//! Between tensors of any numeric type and slices of `f32`, `f64` and `i64`.
//!
//! Types below eight bits are read from the low bits of their byte, whatever the others hold, and written with the
//! others zero: -1 as i4 is the byte 0x0f.

use crate::cast::CastError;
use crate::slices::{decode_slice, encode_slice};
use crate::{DType, Format, Rounding, Tensor, round_slice};
use half::slice::HalfFloatSliceExt;
use std::borrow::Cow;
use std::sync::LazyLock;

impl Tensor {
    /// The elements as binary32, borrowed where they are. Wider numbers are rounded to the nearest, ties to even, and
    /// become infinite out of range; every other float is exact; false is 0 and true 1.
    ///
    /// # Errors
    /// For strings and complex numbers.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>, CastError> {
        if self.dtype() == DType::F32 { Ok(self.raw()) } else { Ok(Cow::Owned(read(self)?)) }
    }
    /// The elements as binary64, borrowed where they are. 64-bit integers are rounded to the nearest, ties to even.
    ///
    /// # Errors
    /// For strings and complex numbers.
    pub fn to_f64(&self) -> Result<Cow<'_, [f64]>, CastError> {
        if self.dtype() == DType::F64 { Ok(self.raw()) } else { Ok(Cow::Owned(read(self)?)) }
    }
    /// The elements as 64-bit integers, borrowed where they are. Floats are truncated toward zero; out of range they
    /// become the nearest end of it, and NaN becomes 0. Unsigned 64-bit integers wrap.
    ///
    /// # Errors
    /// For strings and complex numbers.
    pub fn to_i64(&self) -> Result<Cow<'_, [i64]>, CastError> {
        if self.dtype() == DType::I64 { Ok(self.raw()) } else { Ok(Cow::Owned(read(self)?)) }
    }
    /// A tensor of a numeric type from binary32 values.
    ///
    /// - Floats: rounded as [`Format::encode`] says, at the element's index.
    /// - Integers: truncated toward zero; out of range the nearest end of it, and 0 for NaN.
    /// - Bool: false for zeros, true for all else.
    ///
    /// Panics where the number of values is not the product of the shape, and for strings and complex types.
    pub fn from_f32<'a>(
        dtype: DType,
        shape: Vec<usize>,
        values: impl Into<Cow<'a, [f32]>>,
        rounding: Rounding,
        saturate: bool,
    ) -> Self {
        let values = values.into();
        let Some(format) = Format::of(dtype) else {
            return integers_from_floats(dtype, shape, values.iter().map(|&v| f64::from(v)));
        };
        let nearest = rounding == Rounding::NearestEven && !saturate;
        match dtype {
            DType::F32 => {
                let mut values = values.into_owned();
                round_slice(&mut values, format, rounding, saturate, 0);
                Self::from_vec(shape, values)
            }
            DType::F16 if nearest => {
                let mut halves = vec![half::f16::ZERO; values.len()];
                halves.convert_from_f32_slice(&values);
                Self::from_vec(shape, halves)
            }
            DType::BF16 if nearest => {
                let code = |&value: &f32| {
                    let bits = value.to_bits();
                    // A carry out of the mantissa runs into the exponent and makes infinity of what overflows.
                    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
                    let nan = bits >> 16 | 0x40;
                    if value.is_nan() { nan as u16 } else { rounded as u16 }
                };
                Self::from_raw(dtype, shape, values.iter().map(code).collect::<Vec<_>>())
            }
            DType::F64 => {
                let values: Vec<f64> = values.iter().map(|&v| v.into()).collect();
                Self::from_f64(dtype, shape, values, rounding, saturate)
            }
            _ if format.bits() <= 8 => {
                let mut codes = vec![0_u8; values.len()];
                encode_slice(&values, &mut codes, format, rounding, saturate, 0);
                Self::from_raw(dtype, shape, codes)
            }
            _ => {
                let mut codes = vec![0_u16; values.len()];
                encode_slice(&values, &mut codes, format, rounding, saturate, 0);
                Self::from_raw(dtype, shape, codes)
            }
        }
    }
    /// A tensor of a numeric type from binary64 values, rounded once; otherwise as [`Tensor::from_f32`].
    pub fn from_f64<'a>(
        dtype: DType,
        shape: Vec<usize>,
        values: impl Into<Cow<'a, [f64]>>,
        rounding: Rounding,
        saturate: bool,
    ) -> Self {
        let values = values.into();
        let Some(format) = Format::of(dtype) else {
            return integers_from_floats(dtype, shape, values.iter().copied());
        };
        if !saturate && dtype == DType::F64 {
            return Self::from_vec(shape, values.into_owned());
        }
        if !saturate && dtype == DType::F32 && rounding == Rounding::NearestEven {
            return Self::from_vec(shape, values.iter().map(|&v| v as f32).collect::<Vec<_>>());
        }
        let codes = values.iter().zip(0..).map(|(&v, index)| format.encode(v, rounding, saturate, index));
        from_codes(dtype, shape, codes)
    }
    /// A tensor of a numeric type from integers: floats are rounded once to the nearest, ties to even (out of range
    /// as [`Format::encode`] without saturation); narrower integers keep the low bits, as a cast in C does; bool is
    /// true for all but zero.
    ///
    /// Panics where the number of values is not the product of the shape, and for strings and complex types.
    pub fn from_i64<'a>(dtype: DType, shape: Vec<usize>, values: impl Into<Cow<'a, [i64]>>) -> Self {
        let values = values.into();
        match dtype {
            DType::I64 => Self::from_vec(shape, values.into_owned()),
            _ if dtype.is_float() => Self::floats_from_integers(
                dtype,
                shape,
                values.iter().map(|&v| (v < 0, v.unsigned_abs())),
                Rounding::NearestEven,
                false,
            ),
            _ => integers(dtype, shape, values.iter().copied()),
        }
    }
    /// Floats of the numbers given by sign and magnitude, rounded once.
    pub(crate) fn floats_from_integers(
        dtype: DType,
        shape: Vec<usize>,
        values: impl Iterator<Item = (bool, u64)>,
        rounding: Rounding,
        saturate: bool,
    ) -> Self {
        let format = Format::of(dtype).expect("the callers pass float types");
        let codes = values.zip(0..).map(|((negative, magnitude), index)| {
            format.encode_scaled(negative && magnitude != 0, magnitude, 0, rounding, saturate, index)
        });
        from_codes(dtype, shape, codes)
    }
}

/// What [`read`] makes of the elements of a tensor.
trait Number: Copy {
    fn from_f64(value: f64) -> Self;
    fn from_f32(value: f32) -> Self;
    fn from_i64(value: i64) -> Self;
    fn from_u64(value: u64) -> Self;
    /// Takes binary32 values over without a copy where that is the type.
    fn from_f32s(values: Vec<f32>) -> Vec<Self> {
        values.into_iter().map(Self::from_f32).collect()
    }
}
macro_rules! number {
    ($($t:ty { $($more:item)* })*) => { $(impl Number for $t {
        fn from_f64(value: f64) -> Self { value as Self }
        fn from_f32(value: f32) -> Self { value as Self }
        fn from_i64(value: i64) -> Self { value as Self }
        fn from_u64(value: u64) -> Self { value as Self }
        $($more)*
    })* };
}
number! {
    f32 { fn from_f32s(values: Vec<f32>) -> Vec<Self> { values } }
    f64 {}
    i64 {}
}

fn read<T: Number>(tensor: &Tensor) -> Result<Vec<T>, CastError> {
    fn each<S: bytemuck::Pod, T>(tensor: &Tensor, convert: impl Fn(S) -> T) -> Vec<T> {
        tensor.raw::<S>().iter().map(|&value| convert(value)).collect()
    }
    Ok(match tensor.dtype() {
        DType::F64 => each(tensor, T::from_f64),
        DType::F32 => each(tensor, T::from_f32),
        DType::F16 => {
            let mut values = vec![0.0; tensor.len()];
            tensor.raw::<half::f16>().convert_to_f32_slice(&mut values);
            T::from_f32s(values)
        }
        DType::BF16 => each(tensor, |code: u16| T::from_f32(f32::from_bits(u32::from(code) << 16))),
        DType::CB16 => {
            let mut values = vec![0.0; tensor.len()];
            decode_slice(&tensor.raw::<u16>(), &mut values, Format::CB16);
            T::from_f32s(values)
        }
        DType::F8E4M3FN
        | DType::F8E4M3FNUZ
        | DType::F8E4M3
        | DType::F8E5M2
        | DType::F8E5M2FNUZ
        | DType::F4E2M1
        | DType::F8E8M0 => {
            let table = byte_values(tensor.dtype());
            each(tensor, |code: u8| T::from_f32(table[usize::from(code)]))
        }
        DType::I64 => each(tensor, T::from_i64),
        DType::I32 => each(tensor, |v: i32| T::from_i64(v.into())),
        DType::I16 => each(tensor, |v: i16| T::from_i64(v.into())),
        DType::I8 => each(tensor, |v: i8| T::from_i64(v.into())),
        DType::I4 => each(tensor, |v: i8| T::from_i64(((v << 4) >> 4).into())),
        DType::I2 => each(tensor, |v: i8| T::from_i64(((v << 6) >> 6).into())),
        DType::U64 => each(tensor, T::from_u64),
        DType::U32 => each(tensor, |v: u32| T::from_u64(v.into())),
        DType::U16 => each(tensor, |v: u16| T::from_u64(v.into())),
        DType::U8 => each(tensor, |v: u8| T::from_u64(v.into())),
        DType::U4 => each(tensor, |v: u8| T::from_u64((v & 15).into())),
        DType::U2 => each(tensor, |v: u8| T::from_u64((v & 3).into())),
        DType::Bool => each(tensor, |v: u8| T::from_u64((v != 0).into())),
        from @ (DType::C64 | DType::C128 | DType::Str) => return Err(CastError::NotNumbers { from }),
    })
}

/// The value of every byte as a code of a float type of at most eight bits.
fn byte_values(dtype: DType) -> &'static [f32; 256] {
    const TYPES: [DType; 7] = [
        DType::F8E4M3FN,
        DType::F8E4M3FNUZ,
        DType::F8E4M3,
        DType::F8E5M2,
        DType::F8E5M2FNUZ,
        DType::F4E2M1,
        DType::F8E8M0,
    ];
    static TABLES: LazyLock<[[f32; 256]; 7]> = LazyLock::new(|| {
        TYPES.map(|dtype| {
            let format = Format::of(dtype).expect("the types above are floats");
            std::array::from_fn(|code| format.decode(code as u64) as f32)
        })
    });
    let position = TYPES.iter().position(|&t| t == dtype).expect("the callers pass one of the types above");
    &TABLES[position]
}

/// A float tensor from codes.
fn from_codes(dtype: DType, shape: Vec<usize>, codes: impl Iterator<Item = u64>) -> Tensor {
    match dtype.host_bytes() {
        1 => Tensor::from_raw(dtype, shape, codes.map(|c| c as u8).collect()),
        2 => Tensor::from_raw(dtype, shape, codes.map(|c| c as u16).collect()),
        4 => Tensor::from_raw(dtype, shape, codes.map(|c| c as u32).collect()),
        _ => Tensor::from_raw(dtype, shape, codes.collect()),
    }
}

/// An integer or bool tensor, integers keeping the low bits.
pub(crate) fn integers(dtype: DType, shape: Vec<usize>, values: impl Iterator<Item = i64>) -> Tensor {
    match dtype {
        DType::I64 | DType::U64 => Tensor::from_raw(dtype, shape, values.collect()),
        DType::I32 | DType::U32 => Tensor::from_raw(dtype, shape, values.map(|v| v as u32).collect()),
        DType::I16 | DType::U16 => Tensor::from_raw(dtype, shape, values.map(|v| v as u16).collect()),
        DType::I8 | DType::U8 => Tensor::from_raw(dtype, shape, values.map(|v| v as u8).collect()),
        DType::I4 | DType::U4 => Tensor::from_raw(dtype, shape, values.map(|v| v as u8 & 15).collect()),
        DType::I2 | DType::U2 => Tensor::from_raw(dtype, shape, values.map(|v| v as u8 & 3).collect()),
        DType::Bool => Tensor::from_bools(shape, values.map(|v| v != 0)),
        other => panic!("{other} holds no integers"),
    }
}

/// An integer or bool tensor, integers truncated toward zero and held within their range.
fn integers_from_floats(dtype: DType, shape: Vec<usize>, values: impl Iterator<Item = f64>) -> Tensor {
    match dtype {
        DType::Bool => Tensor::from_bools(shape, values.map(|v| v != 0.0)),
        DType::U64 => Tensor::from_vec(shape, values.map(|v| v as u64).collect::<Vec<_>>()),
        _ if dtype.is_int() => {
            let (low, high) = dtype.int_range();
            let (low, high) = (low as i64, high as i64);
            integers(dtype, shape, values.map(|v| (v as i64).clamp(low, high)))
        }
        other => panic!("{other} holds no numbers that are one float each"),
    }
}
