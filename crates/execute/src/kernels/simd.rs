//! Vectors of f32 by instruction set, chosen when the program runs.
//!
//! A kernel is written once, generic over [`Simd`], and [`dispatch`] runs it with the widest instructions that the machine
//! has. A value of an instruction-set type can only be had from its `detect`, so holding one proves that its instructions
//! exist: that is what makes the intrinsics below sound. Invariants: fused multiply-add rounds once on AVX2 and AVX-512 and
//! twice on the portable set, so those two agree bit for bit where lanes do not matter and the portable set is held to a bound.
#![expect(
    unsafe_code,
    reason = "intrinsics; each use is justified by the token that proves the instructions exist"
)]

use std::sync::LazyLock;

/// Operations on a vector of [`Simd::LANES`] numbers.
///
/// `min` and `max` give the second operand where either is NaN, as x86 does.
pub trait Simd: Copy + Send + Sync + 'static {
    /// A vector.
    type V: Copy;
    /// Numbers in a vector.
    const LANES: usize;
    /// All lanes the same.
    fn splat(self, x: f32) -> Self::V;
    /// The first `LANES` numbers. Panics where there are fewer.
    fn load(self, from: &[f32]) -> Self::V;
    /// Writes the first `LANES` numbers. Panics where there is less room.
    fn store(self, to: &mut [f32], v: Self::V);
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// The smaller; `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// The larger; `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Square root.
    fn sqrt(self, a: Self::V) -> Self::V;
    /// Nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// Magnitude.
    fn abs(self, a: Self::V) -> Self::V;
    /// The magnitude of `a` with the sign of `b`.
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V;
    /// `x` where `a < b`, else `y`.
    fn select_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `x` where `a` is NaN, else `y`.
    fn select_nan(self, a: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `a * 2^n` for whole `n` in -252..=252, rounded once.
    fn scale(self, a: Self::V, n: Self::V) -> Self::V;
    /// As many numbers as there are, up to `LANES`; the other lanes are zero.
    #[inline(always)]
    fn load_partial(self, from: &[f32]) -> Self::V {
        if from.len() >= Self::LANES {
            return self.load(from);
        }
        let mut all = [0.0; MAX_LANES];
        all[..from.len()].copy_from_slice(from);
        self.load(&all)
    }
    /// Writes as many lanes as there is room for.
    #[inline(always)]
    fn store_partial(self, to: &mut [f32], v: Self::V) {
        if to.len() >= Self::LANES {
            return self.store(to, v);
        }
        let mut all = [0.0; MAX_LANES];
        self.store(&mut all, v);
        let count = to.len();
        to.copy_from_slice(&all[..count]);
    }
    /// Sum of the lanes, in pairs.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.fold(
            v,
            #[inline(always)]
            |a, b| a + b,
        )
    }
    /// Lanes brought together in pairs: first half with second half.
    #[inline(always)]
    fn fold(self, v: Self::V, mut f: impl FnMut(f32, f32) -> f32) -> f32 {
        let mut all = [0.0; MAX_LANES];
        self.store(&mut all, v);
        let mut half = Self::LANES / 2;
        while half > 0 {
            for i in 0..half {
                all[i] = f(all[i], all[i + half]);
            }
            half /= 2;
        }
        all[0]
    }
}

/// The most lanes of any instruction set.
pub const MAX_LANES: usize = 16;

/// Work that [`dispatch`] can run with any instruction set. `run` must be `#[inline(always)]`, so that it is compiled anew,
/// with wide instructions, for each.
pub trait Kernel {
    /// What it gives.
    type Output;
    /// Does it.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Which instructions are used.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// What every processor of the target has.
    Portable(Portable),
    /// AVX2 with fused multiply-add.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 F, VL and DQ.
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

static LEVEL: LazyLock<Level> = LazyLock::new(|| {
    #[cfg(target_arch = "x86_64")]
    {
        if let Some(token) = Avx512::detect() {
            return Level::Avx512(token);
        }
        if let Some(token) = Avx2::detect() {
            return Level::Avx2(token);
        }
    }
    Level::Portable(Portable)
});

impl Level {
    /// The widest that this machine has.
    pub fn best() -> Self {
        *LEVEL
    }
    /// All that this machine has, widest last.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Self::Portable(Portable)];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(Avx2::detect().map(Self::Avx2));
            all.extend(Avx512::detect().map(Self::Avx512));
        }
        all
    }
    /// Name, as reports show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portable(_) => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
        }
    }
    /// Numbers in a vector.
    pub fn lanes(self) -> usize {
        match self {
            Self::Portable(_) => Portable::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => Avx2::LANES,
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => Avx512::LANES,
        }
    }
    /// Runs a kernel with these instructions.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Self::Portable(token) => kernel.run(token),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves that the instructions exist.
            Self::Avx2(token) => unsafe { run_avx2(token, kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token proves that the instructions exist.
            Self::Avx512(token) => unsafe { run_avx512(token, kernel) },
        }
    }
}

/// Runs a kernel with the widest instructions that this machine has.
#[inline]
pub fn dispatch<K: Kernel>(kernel: K) -> K::Output {
    Level::best().run(kernel)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(token: Avx2, kernel: K) -> K::Output {
    kernel.run(token)
}
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx2,fma")]
fn run_avx512<K: Kernel>(token: Avx512, kernel: K) -> K::Output {
    kernel.run(token)
}

/// Eight numbers in plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Portable {
    #[inline(always)]
    fn zip(a: [f32; 8], b: [f32; 8], f: impl Fn(f32, f32) -> f32) -> [f32; 8] {
        std::array::from_fn(|i| f(a[i], b[i]))
    }
}
impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;
    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::V {
        *from.first_chunk().expect("a vector's worth of numbers")
    }
    #[inline(always)]
    fn store(self, to: &mut [f32], v: Self::V) {
        *to.first_chunk_mut().expect("room for a vector") = v;
    }
    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::V) -> Self::V {
        a.map(f32::sqrt)
    }
    #[inline(always)]
    fn round(self, a: Self::V) -> Self::V {
        a.map(f32::round_ties_even)
    }
    #[inline(always)]
    fn abs(self, a: Self::V) -> Self::V {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn copysign(self, a: Self::V, b: Self::V) -> Self::V {
        Self::zip(a, b, f32::copysign)
    }
    #[inline(always)]
    fn select_less(self, a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn select_nan(self, a: Self::V, x: Self::V, y: Self::V) -> Self::V {
        std::array::from_fn(|i| if a[i].is_nan() { x[i] } else { y[i] })
    }
    #[inline(always)]
    fn scale(self, a: Self::V, n: Self::V) -> Self::V {
        Self::zip(a, n, |a, n| {
            // Two factors, because one power of two cannot reach from the largest to the smallest number.
            let n = n as i32;
            let half = n >> 1;
            let power = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
            a * power(half) * power(n - half)
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Simd;
    use std::arch::x86_64::*;

    /// Proof that AVX2 and FMA exist.
    #[derive(Clone, Copy, Debug)]
    pub struct Avx2(());
    /// Proof that AVX-512 F, VL and DQ (and AVX2 and FMA) exist.
    #[derive(Clone, Copy, Debug)]
    pub struct Avx512(());

    impl Avx2 {
        /// The proof, where this machine has the instructions.
        pub fn detect() -> Option<Self> {
            (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
        }
    }
    impl Avx512 {
        /// The proof, where this machine has the instructions.
        pub fn detect() -> Option<Self> {
            (Avx2::detect().is_some()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq"))
            .then_some(Self(()))
        }
    }

    macro_rules! intrinsics {
        ($($(#[$doc:meta])* fn $name:ident(self $(, $arg:ident: $t:ty)*) -> $ret:ty = $body:expr;)*) => {
            $(
                #[inline(always)]
                fn $name(self $(, $arg: $t)*) -> $ret {
                    // SAFETY: `self` proves that the instructions exist; the body touches no memory.
                    unsafe { $body }
                }
            )*
        };
    }

    impl Simd for Avx2 {
        type V = __m256;
        const LANES: usize = 8;
        #[inline(always)]
        fn load(self, from: &[f32]) -> Self::V {
            let from: &[f32; 8] = from.first_chunk().expect("a vector's worth of numbers");
            // SAFETY: `self` proves the instructions; the reference covers eight numbers.
            unsafe { _mm256_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32], v: Self::V) {
            let to: &mut [f32; 8] = to.first_chunk_mut().expect("room for a vector");
            // SAFETY: `self` proves the instructions; the reference covers eight numbers.
            unsafe { _mm256_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn load_partial(self, from: &[f32]) -> Self::V {
            if from.len() >= 8 {
                return self.load(from);
            }
            const MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
            // SAFETY: `self` proves the instructions; the mask is read at 1..=8 of sixteen, and keeps the access to `from`
            // inside the slice.
            unsafe {
                let mask = _mm256_loadu_si256(MASK.as_ptr().add(8 - from.len()).cast());
                _mm256_maskload_ps(from.as_ptr(), mask)
            }
        }
        intrinsics! {
            fn splat(self, x: f32) -> __m256 = _mm256_set1_ps(x);
            fn add(self, a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
            fn sub(self, a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
            fn mul(self, a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
            fn div(self, a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
            fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
            fn min(self, a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
            fn max(self, a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
            fn sqrt(self, a: __m256) -> __m256 = _mm256_sqrt_ps(a);
            fn round(self, a: __m256) -> __m256 =
                _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            fn abs(self, a: __m256) -> __m256 = _mm256_andnot_ps(_mm256_set1_ps(-0.0), a);
            fn copysign(self, a: __m256, b: __m256) -> __m256 = {
                let sign = _mm256_set1_ps(-0.0);
                _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b))
            };
            fn select_less(self, a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 =
                _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b));
            fn select_nan(self, a: __m256, x: __m256, y: __m256) -> __m256 =
                _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_UNORD_Q>(a, a));
            fn scale(self, a: __m256, n: __m256) -> __m256 = {
                let n = _mm256_cvtps_epi32(n);
                let half = _mm256_srai_epi32::<1>(n);
                let rest = _mm256_sub_epi32(n, half);
                let bias = _mm256_set1_epi32(127);
                let first = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias)));
                let second = _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(rest, bias)));
                _mm256_mul_ps(_mm256_mul_ps(a, first), second)
            };
        }
    }

    impl Simd for Avx512 {
        type V = __m512;
        const LANES: usize = 16;
        #[inline(always)]
        fn load(self, from: &[f32]) -> Self::V {
            let from: &[f32; 16] = from.first_chunk().expect("a vector's worth of numbers");
            // SAFETY: `self` proves the instructions; the reference covers sixteen numbers.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, to: &mut [f32], v: Self::V) {
            let to: &mut [f32; 16] = to.first_chunk_mut().expect("room for a vector");
            // SAFETY: `self` proves the instructions; the reference covers sixteen numbers.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), v) }
        }
        #[inline(always)]
        fn load_partial(self, from: &[f32]) -> Self::V {
            if from.len() >= 16 {
                return self.load(from);
            }
            // SAFETY: `self` proves the instructions; the mask keeps the access inside the slice.
            unsafe { _mm512_maskz_loadu_ps((1_u16 << from.len()).wrapping_sub(1), from.as_ptr()) }
        }
        #[inline(always)]
        fn store_partial(self, to: &mut [f32], v: Self::V) {
            if to.len() >= 16 {
                return self.store(to, v);
            }
            // SAFETY: `self` proves the instructions; the mask keeps the access inside the slice.
            unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr(), (1_u16 << to.len()).wrapping_sub(1), v) }
        }
        intrinsics! {
            fn splat(self, x: f32) -> __m512 = _mm512_set1_ps(x);
            fn add(self, a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
            fn sub(self, a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
            fn mul(self, a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
            fn div(self, a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
            fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
            fn min(self, a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
            fn max(self, a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
            fn sqrt(self, a: __m512) -> __m512 = _mm512_sqrt_ps(a);
            fn round(self, a: __m512) -> __m512 =
                _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a);
            fn abs(self, a: __m512) -> __m512 = _mm512_abs_ps(a);
            fn copysign(self, a: __m512, b: __m512) -> __m512 = {
                let sign = _mm512_set1_ps(-0.0);
                _mm512_or_ps(_mm512_andnot_ps(sign, a), _mm512_and_ps(sign, b))
            };
            fn select_less(self, a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 =
                _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x);
            fn select_nan(self, a: __m512, x: __m512, y: __m512) -> __m512 =
                _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_UNORD_Q>(a, a), y, x);
            fn scale(self, a: __m512, n: __m512) -> __m512 = _mm512_scalef_ps(a, n);
            fn sum(self, v: __m512) -> f32 = {
                let halves = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
                let quarters = _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps::<1>(halves));
                let pairs = _mm_add_ps(quarters, _mm_movehl_ps(quarters, quarters));
                _mm_cvtss_f32(_mm_add_ss(pairs, _mm_shuffle_ps::<1>(pairs, pairs)))
            };
        }
    }
}
#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(test)]
mod tests {
    use super::*;

    /// What every operation makes of three vectors, lane by lane, and of every number of lanes loaded and stored.
    struct All<'a>([&'a [f32]; 3]);
    impl Kernel for All<'_> {
        type Output = Vec<(&'static str, Vec<f32>)>;
        #[inline(always)]
        fn run<S: Simd>(self, s: S) -> Self::Output {
            let mut made: Self::Output = Vec::new();
            let lanes = |v: S::V| {
                let mut all = [f32::NAN; MAX_LANES];
                s.store(&mut all, v);
                assert!(all[S::LANES..].iter().all(|x| x.is_nan()), "written beyond the vector");
                all[..S::LANES].to_vec()
            };
            let len = self.0[0].len();
            for at in (0..len).step_by(S::LANES) {
                let [a, b, c] = self.0.map(|x| s.load(&x[at..]));
                let whole = s.min(s.splat(252.0), s.max(s.splat(-252.0), s.round(c)));
                for (name, v) in [
                    ("splat", s.splat(self.0[0][at])),
                    ("add", s.add(a, b)),
                    ("sub", s.sub(a, b)),
                    ("mul", s.mul(a, b)),
                    ("div", s.div(a, b)),
                    ("min", s.min(a, b)),
                    ("max", s.max(a, b)),
                    ("sqrt", s.sqrt(a)),
                    ("round", s.round(a)),
                    ("abs", s.abs(a)),
                    ("copysign", s.copysign(a, b)),
                    ("select_less", s.select_less(a, b, b, c)),
                    ("select_nan", s.select_nan(a, b, c)),
                    ("scale", s.scale(b, whole)),
                ] {
                    let numbers = lanes(v);
                    // A splat of the first lane is as long as the vector is; one number of it is compared.
                    let numbers = if name == "splat" { vec![numbers[S::LANES - 1]] } else { numbers };
                    match made.iter_mut().find(|(n, _)| *n == name) {
                        Some((_, all)) if name != "splat" => all.extend(numbers),
                        Some(_) => {}
                        None => made.push((name, numbers)),
                    }
                }
            }
            made
        }
    }

    /// Loads and stores of every length up to two vectors, next to numbers that must stay.
    struct Parts;
    impl Kernel for Parts {
        type Output = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            let from: Vec<f32> = (1..=40).map(|x| x as f32).collect();
            for len in 0..=2 * S::LANES {
                let taken = len.min(S::LANES);
                let v = s.load_partial(&from[..len]);
                let mut all = [-1.0; MAX_LANES];
                s.store(&mut all, v);
                assert!(all[..taken] == from[..taken] && all[taken..S::LANES].iter().all(|x| *x == 0.0));
                let mut to = [-1.0; 40];
                s.store_partial(&mut to[3..3 + len], s.load(&from));
                assert!(to[3..3 + taken] == from[..taken]);
                assert!(to[..3].iter().chain(&to[3 + taken..]).all(|x| *x == -1.0), "{len}");
            }
            let sum: f32 = (1..=S::LANES).map(|x| x as f32).sum();
            assert_eq!(s.sum(s.load(&from)), sum);
            assert_eq!(s.fold(s.load(&from), f32::max), S::LANES as f32);
        }
    }

    #[test]
    fn instructions_do_what_plain_rust_does() {
        let special =
            [0.0, -0.0, 1.0, -1.5, 2.5, 0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, 1e-40, -7e9];
        // Every pair, and a third that goes its own way; as many as whole vectors of any width.
        let pairs: Vec<(f32, f32)> = special.iter().flat_map(|a| special.map(|b| (*a, b))).collect();
        let a: Vec<f32> = pairs.iter().map(|p| p.0).collect();
        let b: Vec<f32> = pairs.iter().map(|p| p.1).collect();
        let c: Vec<f32> = (0..a.len()).map(|i| (i as f32 - 70.0) * 3.3).collect();
        assert_eq!(a.len() % MAX_LANES, 0);
        let plain = Level::Portable(Portable).run(All([&a, &b, &c]));
        for level in Level::available() {
            level.run(Parts);
            for ((name, got), (_, expected)) in level.run(All([&a, &b, &c])).iter().zip(&plain) {
                for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                    let same = got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan();
                    // Two factors round twice where the result is subnormal.
                    let near = *name == "scale" && (got - expected).abs() <= 1.5e-45;
                    assert!(same || near, "{} {name} {i}: {got} for {expected}", level.name());
                }
            }
        }
    }

    #[test]
    fn fused_products_round_once_or_twice() {
        struct Fused<'a>(&'a [f32], &'a mut [f32]);
        impl Kernel for Fused<'_> {
            type Output = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                for at in (0..self.0.len()).step_by(S::LANES) {
                    let x = s.load(&self.0[at..]);
                    s.store(&mut self.1[at..], s.fma(x, s.splat(1.1), s.splat(-0.3)));
                }
            }
        }
        let x: Vec<f32> = (0..64).map(|i| 1.0 / (i as f32 + 0.7)).collect();
        for level in Level::available() {
            let mut got = vec![0.0; x.len()];
            level.run(Fused(&x, &mut got));
            for (&x, got) in x.iter().zip(got) {
                let (once, twice) = (x.mul_add(1.1, -0.3), x * 1.1 - 0.3);
                let expected = if matches!(level, Level::Portable(_)) { twice } else { once };
                assert_eq!(got.to_bits(), expected.to_bits(), "{}", level.name());
            }
        }
    }
}
