//! Steps of optimizers, each parameter in one pass over memory.

use super::simd::{Kernel, Simd, dispatch};
use super::threads::Threads;

/// Numbers in a piece of work.
const PIECE: usize = 8 << 10;

/// A step of Adam, with the numbers of this step.
#[derive(Clone, Copy, Debug)]
pub struct Adam {
    /// Parts of the mean gradient and of the mean squared gradient that are kept.
    pub betas: [f32; 2],
    /// Added to the root that is divided by.
    pub epsilon: f32,
    /// Factor of the parameter that is added to its gradient.
    pub decay: f32,
    /// What the parameter is multiplied with.
    pub kept: f32,
    /// Learning rate over what the mean gradient lacks after so many steps.
    pub rate: f32,
    /// Root of what the mean squared gradient lacks.
    pub root: f32,
}

impl Adam {
    /// Computes the new parameter, mean and mean square from the old ones and the gradient.
    pub fn run(&self, threads: &Threads, [p, g, m, v]: [&[f32]; 4], [new_p, new_m, new_v]: [&mut [f32]; 3]) {
        let mut pieces: Vec<[&mut [f32]; 3]> = new_p
            .chunks_mut(PIECE)
            .zip(new_m.chunks_mut(PIECE))
            .zip(new_v.chunks_mut(PIECE))
            .map(|((p, m), v)| [p, m, v])
            .collect();
        threads.chunks(&mut pieces, 1, |i, piece| {
            for out in piece {
                let part = |x: &'_ [f32]| i * PIECE..(i * PIECE + PIECE).min(x.len());
                let old = [&p[part(p)], &g[part(g)], &m[part(m)], &v[part(v)]];
                dispatch(AdamKernel { adam: *self, old, out });
            }
        });
    }
}

struct AdamKernel<'a, 'b> {
    adam: Adam,
    old: [&'a [f32]; 4],
    out: &'a mut [&'b mut [f32]; 3],
}
impl Kernel for AdamKernel<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { adam, old: [p, g, m, v], out: [new_p, new_m, new_v] } = self;
        let [b1, b2] = adam.betas.map(|b| s.splat(b));
        let [c1, c2] = adam.betas.map(|b| s.splat(1.0 - b));
        let (epsilon, decay, kept) = (s.splat(adam.epsilon), s.splat(adam.decay), s.splat(adam.kept));
        let (rate, root) = (s.splat(adam.rate), s.splat(adam.root));
        for i in (0..p.len()).step_by(S::LANES) {
            let end = (i + S::LANES).min(p.len());
            let (p, g) = (s.load_partial(&p[i..end]), s.load_partial(&g[i..end]));
            let g = if adam.decay == 0.0 { g } else { s.add(g, s.mul(decay, p)) };
            let m = s.add(s.mul(b1, s.load_partial(&m[i..end])), s.mul(c1, g));
            let v = s.add(s.mul(b2, s.load_partial(&v[i..end])), s.mul(s.mul(c2, g), g));
            let below = s.add(s.div(s.sqrt(v), root), epsilon);
            let moved = s.sub(s.mul(kept, p), s.div(s.mul(rate, m), below));
            s.store_partial(&mut new_p[i..end], moved);
            s.store_partial(&mut new_m[i..end], m);
            s.store_partial(&mut new_v[i..end], v);
        }
    }
}
