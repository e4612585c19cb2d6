//! The element types a tensor can have.

/// Element type of a tensor.
///
/// Host storage is one little-endian element after another; types below eight bits take one byte each on the host
/// (value in the low bits), while [`DType::bits`] is what a machine stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE binary64.
    F64,
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16: 8 exponent, 7 mantissa bits.
    BF16,
    /// cbfloat16 of Cerebras: 6 exponent (bias 31), 9 mantissa bits.
    CB16,
    /// fp8 e4m3 without infinities, maximum 448 (OCP; H100).
    F8E4M3FN,
    /// fp8 e4m3 without infinities and negative zero, bias 8, maximum 240.
    F8E4M3FNUZ,
    /// fp8 e4m3 as IEEE would have it, maximum 240 (Gaudi2).
    F8E4M3,
    /// fp8 e5m2 as IEEE would have it, maximum 57344.
    F8E5M2,
    /// fp8 e5m2 without infinities and negative zero, bias 16.
    F8E5M2FNUZ,
    /// fp4 e2m1, the element of mxfp4.
    F4E2M1,
    /// Power-of-two scale of a microscaling block, bias 127.
    F8E8M0,
    /// Signed 64 bits.
    I64,
    /// Signed 32 bits.
    I32,
    /// Signed 16 bits.
    I16,
    /// Signed 8 bits.
    I8,
    /// Signed 4 bits.
    I4,
    /// Signed 2 bits.
    I2,
    /// Unsigned 64 bits.
    U64,
    /// Unsigned 32 bits.
    U32,
    /// Unsigned 16 bits.
    U16,
    /// Unsigned 8 bits.
    U8,
    /// Unsigned 4 bits.
    U4,
    /// Unsigned 2 bits.
    U2,
    /// One byte, 0 or 1.
    Bool,
    /// Two binary32: real, imaginary.
    C64,
    /// Two binary64: real, imaginary.
    C128,
    /// UTF-8 strings, held apart from byte storage.
    Str,
}

impl DType {
    /// Every type, in the order of declaration.
    pub const ALL: [Self; 28] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::CB16,
        Self::F8E4M3FN,
        Self::F8E4M3FNUZ,
        Self::F8E4M3,
        Self::F8E5M2,
        Self::F8E5M2FNUZ,
        Self::F4E2M1,
        Self::F8E8M0,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::I4,
        Self::I2,
        Self::U64,
        Self::U32,
        Self::U16,
        Self::U8,
        Self::U4,
        Self::U2,
        Self::Bool,
        Self::C64,
        Self::C128,
        Self::Str,
    ];
    /// The name in text forms.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F64 => "f64",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::CB16 => "cb16",
            Self::F8E4M3FN => "f8e4m3fn",
            Self::F8E4M3FNUZ => "f8e4m3fnuz",
            Self::F8E4M3 => "f8e4m3",
            Self::F8E5M2 => "f8e5m2",
            Self::F8E5M2FNUZ => "f8e5m2fnuz",
            Self::F4E2M1 => "f4e2m1",
            Self::F8E8M0 => "f8e8m0",
            Self::I64 => "i64",
            Self::I32 => "i32",
            Self::I16 => "i16",
            Self::I8 => "i8",
            Self::I4 => "i4",
            Self::I2 => "i2",
            Self::U64 => "u64",
            Self::U32 => "u32",
            Self::U16 => "u16",
            Self::U8 => "u8",
            Self::U4 => "u4",
            Self::U2 => "u2",
            Self::Bool => "bool",
            Self::C64 => "c64",
            Self::C128 => "c128",
            Self::Str => "str",
        }
    }
    /// The type of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }
    /// Bits an element takes in a machine's memory. Strings count as none: no machine holds them.
    pub const fn bits(self) -> u64 {
        match self {
            Self::C128 => 128,
            Self::F64 | Self::I64 | Self::U64 | Self::C64 => 64,
            Self::F32 | Self::I32 | Self::U32 => 32,
            Self::F16 | Self::BF16 | Self::CB16 | Self::I16 | Self::U16 => 16,
            Self::F8E4M3FN
            | Self::F8E4M3FNUZ
            | Self::F8E4M3
            | Self::F8E5M2
            | Self::F8E5M2FNUZ
            | Self::F8E8M0
            | Self::I8
            | Self::U8
            | Self::Bool => 8,
            Self::F4E2M1 | Self::I4 | Self::U4 => 4,
            Self::I2 | Self::U2 => 2,
            Self::Str => 0,
        }
    }
    /// Bytes an element takes on the host.
    pub const fn host_bytes(self) -> usize {
        if self.bits() == 0 {
            0
        } else if self.bits() < 8 {
            1
        } else {
            (self.bits() / 8) as usize
        }
    }
    /// True for binary floating-point types, complex not among them.
    pub const fn is_float(self) -> bool {
        matches!(
            self,
            Self::F64
                | Self::F32
                | Self::F16
                | Self::BF16
                | Self::CB16
                | Self::F8E4M3FN
                | Self::F8E4M3FNUZ
                | Self::F8E4M3
                | Self::F8E5M2
                | Self::F8E5M2FNUZ
                | Self::F4E2M1
                | Self::F8E8M0
        )
    }
    /// True for signed and unsigned integers, bool not among them.
    pub const fn is_int(self) -> bool {
        self.is_signed_int() || self.is_unsigned_int()
    }
    /// True for signed integers.
    pub const fn is_signed_int(self) -> bool {
        matches!(self, Self::I64 | Self::I32 | Self::I16 | Self::I8 | Self::I4 | Self::I2)
    }
    /// True for unsigned integers.
    pub const fn is_unsigned_int(self) -> bool {
        matches!(self, Self::U64 | Self::U32 | Self::U16 | Self::U8 | Self::U4 | Self::U2)
    }
    /// Smallest and largest value of an integer type; 0 and 1 of bool. Both nought for other types.
    pub const fn int_range(self) -> (i128, i128) {
        let bits = self.bits();
        if self.is_signed_int() {
            (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        } else if self.is_unsigned_int() {
            (0, (1 << bits) - 1)
        } else {
            (0, matches!(self, Self::Bool) as i128)
        }
    }
    /// True for complex types.
    pub const fn is_complex(self) -> bool {
        matches!(self, Self::C64 | Self::C128)
    }
    /// Bytes that `elements` take in a machine's memory, sub-byte types packed.
    pub const fn machine_bytes(self, elements: u64) -> u64 {
        (elements.saturating_mul(self.bits())).div_ceil(8)
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
