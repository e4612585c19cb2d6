//! Dimensions: integers, or expressions over symbols such as `batch` and `kv_len`.
//!
//! An expression is kept in normal form (a sorted sum of products with integer factors), so that equal expressions
//! compare equal: `2*seq + seq` is `3*seq`. Quotients, maxima and minima of expressions are atoms of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Add, Mul, Sub};
use std::sync::Arc;

/// Values of symbols.
pub type Bindings = BTreeMap<String, i64>;

/// An extent, or an integer computed from extents. Arithmetic saturates at the limits of `i64`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dim {
    /// A number.
    Known(i64),
    /// A sum of at least one term with a symbol in it.
    Expr(Arc<Vec<Term>>),
}

/// An integer factor times a product of atoms; no atoms for the constant term.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Term {
    atoms: Vec<Atom>,
    factor: i64,
}

/// What an expression is made of.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Atom {
    /// A named unknown.
    Symbol(Arc<str>),
    /// Quotient rounded down.
    FloorDiv(Dim, Dim),
    /// The larger.
    Max(Dim, Dim),
    /// The smaller.
    Min(Dim, Dim),
}

impl Dim {
    /// A symbol.
    pub fn symbol(name: &str) -> Self {
        Self::atom(Atom::Symbol(name.into()))
    }
    fn atom(atom: Atom) -> Self {
        Self::Expr(Arc::new(vec![Term { atoms: vec![atom], factor: 1 }]))
    }
    /// The number, where it is one.
    pub fn known(&self) -> Option<i64> {
        match self {
            Self::Known(n) => Some(*n),
            Self::Expr(_) => None,
        }
    }
    /// The number as an extent, where it is a number and not negative.
    pub fn extent(&self) -> Option<usize> {
        self.known().and_then(|n| usize::try_from(n).ok())
    }
    /// True where it is that number.
    pub fn is(&self, n: i64) -> bool {
        self.known() == Some(n)
    }
    /// The symbol's name, where it is a lone symbol.
    pub fn as_symbol(&self) -> Option<&str> {
        let Self::Expr(terms) = self else { return None };
        match terms.as_slice() {
            [Term { atoms, factor: 1 }] => match atoms.as_slice() {
                [Atom::Symbol(name)] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }
    fn terms(&self) -> Vec<Term> {
        match self {
            Self::Known(0) => Vec::new(),
            Self::Known(n) => vec![Term { atoms: Vec::new(), factor: *n }],
            Self::Expr(terms) => terms.as_ref().clone(),
        }
    }
    fn from_terms(terms: impl IntoIterator<Item = Term>) -> Self {
        let mut sum: BTreeMap<Vec<Atom>, i64> = BTreeMap::new();
        for Term { atoms, factor } in terms {
            let total = sum.entry(atoms).or_insert(0);
            *total = total.saturating_add(factor);
        }
        sum.retain(|_, factor| *factor != 0);
        if sum.is_empty() {
            return Self::Known(0);
        }
        if let (1, Some(&constant)) = (sum.len(), sum.get(&Vec::new())) {
            return Self::Known(constant);
        }
        Self::Expr(Arc::new(sum.into_iter().map(|(atoms, factor)| Term { atoms, factor }).collect()))
    }
    /// Quotient rounded down; by zero it is zero.
    #[must_use]
    pub fn floor_div(&self, by: &Self) -> Self {
        match (self, by) {
            (_, Self::Known(1)) => self.clone(),
            (Self::Known(_), Self::Known(0)) => Self::Known(0),
            (Self::Known(a), Self::Known(b)) => {
                let quotient = a.saturating_div(*b);
                let exact = a.wrapping_rem(*b) == 0;
                Self::Known(if !exact && ((a < &0) != (b < &0)) { quotient - 1 } else { quotient })
            }
            _ if self == by => Self::Known(1),
            (Self::Expr(terms), Self::Known(b)) if divides(*b, terms) => Self::from_terms(
                terms.iter().map(|t| Term { atoms: t.atoms.clone(), factor: t.factor.saturating_div(*b) }),
            ),
            (Self::Expr(terms), Self::Expr(divisor)) if divisor.len() == 1 => {
                match terms.iter().map(|t| t.divide(&divisor[0])).collect::<Option<Vec<_>>>() {
                    Some(exact) => Self::from_terms(exact),
                    None => Self::atom(Atom::FloorDiv(self.clone(), by.clone())),
                }
            }
            _ => Self::atom(Atom::FloorDiv(self.clone(), by.clone())),
        }
    }
    /// Quotient rounded up.
    #[must_use]
    pub fn ceil_div(&self, by: &Self) -> Self {
        let up = self.clone() + by.clone() - Self::Known(1);
        match (self, by) {
            (_, Self::Known(1)) => self.clone(),
            (Self::Expr(terms), Self::Known(b)) if divides(*b, terms) => self.floor_div(by),
            _ => up.floor_div(by),
        }
    }
    /// The larger of two.
    #[must_use]
    pub fn larger(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Known(a), Self::Known(b)) => Self::Known(*a.max(b)),
            _ if self == other => self.clone(),
            _ => {
                let (a, b) = if self < other { (self, other) } else { (other, self) };
                Self::atom(Atom::Max(a.clone(), b.clone()))
            }
        }
    }
    /// The smaller of two.
    #[must_use]
    pub fn smaller(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Known(a), Self::Known(b)) => Self::Known(*a.min(b)),
            _ if self == other => self.clone(),
            _ => {
                let (a, b) = if self < other { (self, other) } else { (other, self) };
                Self::atom(Atom::Min(a.clone(), b.clone()))
            }
        }
    }
    /// Puts numbers in for symbols; those without a binding stay.
    #[must_use]
    pub fn bind(&self, bindings: &Bindings) -> Self {
        self.substitute(&|name| bindings.get(name).copied().map(Self::Known))
    }
    /// Puts expressions in for symbols; `None` keeps the symbol.
    #[must_use]
    pub fn substitute(&self, replace: &dyn Fn(&str) -> Option<Self>) -> Self {
        let Self::Expr(terms) = self else { return self.clone() };
        terms.iter().fold(Self::Known(0), |sum, term| {
            sum + term.atoms.iter().fold(Self::Known(term.factor), |product, atom| {
                product
                    * match atom {
                        Atom::Symbol(name) => replace(name).unwrap_or_else(|| Self::symbol(name)),
                        Atom::FloorDiv(a, b) => a.substitute(replace).floor_div(&b.substitute(replace)),
                        Atom::Max(a, b) => a.substitute(replace).larger(&b.substitute(replace)),
                        Atom::Min(a, b) => a.substitute(replace).smaller(&b.substitute(replace)),
                    }
            })
        })
    }
    /// The number under these bindings, or the first symbol without one.
    ///
    /// # Errors
    /// The name of an unbound symbol.
    pub fn eval(&self, bindings: &Bindings) -> Result<i64, String> {
        match self.bind(bindings) {
            Self::Known(n) => Ok(n),
            open => Err(open.symbols().into_iter().next().unwrap_or_default()),
        }
    }
    /// Names of all symbols in it, sorted.
    pub fn symbols(&self) -> Vec<String> {
        let mut names = std::collections::BTreeSet::new();
        let keep = std::cell::RefCell::new(&mut names);
        let _ = self.substitute(&|name| {
            keep.borrow_mut().insert(name.to_owned());
            None
        });
        names.into_iter().collect()
    }
}

/// True where every term is a multiple of `by`.
fn divides(by: i64, terms: &[Term]) -> bool {
    by != 0 && terms.iter().all(|t| t.factor.wrapping_rem(by) == 0)
}

impl Term {
    fn divide(&self, by: &Self) -> Option<Self> {
        if self.factor.checked_rem(by.factor).is_none_or(|rest| rest != 0) {
            return None;
        }
        let mut atoms = self.atoms.clone();
        for atom in &by.atoms {
            let at = atoms.iter().position(|a| a == atom)?;
            atoms.remove(at);
        }
        Some(Self { atoms, factor: self.factor / by.factor })
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Self::Known(i64::try_from(n).unwrap_or(i64::MAX))
    }
}
impl From<i64> for Dim {
    fn from(n: i64) -> Self {
        Self::Known(n)
    }
}
impl From<&str> for Dim {
    fn from(symbol: &str) -> Self {
        Self::symbol(symbol)
    }
}
impl Add for Dim {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Known(a), Self::Known(b)) => Self::Known(a.saturating_add(*b)),
            (Self::Known(0), _) => other,
            (_, Self::Known(0)) => self,
            _ => Self::from_terms(self.terms().into_iter().chain(other.terms())),
        }
    }
}
impl Sub for Dim {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + other * Self::Known(-1)
    }
}
impl Mul for Dim {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Known(a), Self::Known(b)) => Self::Known(a.saturating_mul(*b)),
            (Self::Known(1), _) => other,
            (_, Self::Known(1)) => self,
            _ => {
                let right = other.terms();
                Self::from_terms(self.terms().iter().flat_map(|a| {
                    right.iter().map(move |b| {
                        let mut atoms: Vec<Atom> = a.atoms.iter().chain(&b.atoms).cloned().collect();
                        atoms.sort();
                        Term { atoms, factor: a.factor.saturating_mul(b.factor) }
                    })
                }))
            }
        }
    }
}
impl std::iter::Product for Dim {
    fn product<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::Known(1), Mul::mul)
    }
}
impl std::iter::Sum for Dim {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::Known(0), Add::add)
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symbol(name) if ["floordiv", "max", "min"].contains(&&**name) => write!(f, "{name:?}"),
            Self::Symbol(name) => f.write_str(&crate::text::lex::name_text(name)),
            Self::FloorDiv(a, b) => write!(f, "floordiv({a}, {b})"),
            Self::Max(a, b) => write!(f, "max({a}, {b})"),
            Self::Min(a, b) => write!(f, "min({a}, {b})"),
        }
    }
}
impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let terms = match self {
            Self::Known(n) => return write!(f, "{n}"),
            Self::Expr(terms) => terms,
        };
        // The constant term sorts first and reads better last.
        for (i, term) in terms
            .iter()
            .filter(|t| !t.atoms.is_empty())
            .chain(terms.iter().filter(|t| t.atoms.is_empty()))
            .enumerate()
        {
            let size = term.factor.unsigned_abs();
            match (i, term.factor < 0) {
                (0, false) => {}
                (0, true) => f.write_str("-")?,
                (_, false) => f.write_str(" + ")?,
                (_, true) => f.write_str(" - ")?,
            }
            if term.atoms.is_empty() {
                write!(f, "{size}")?;
            } else {
                if size != 1 {
                    write!(f, "{size}*")?;
                }
                for (j, atom) in term.atoms.iter().enumerate() {
                    write!(f, "{}{atom}", if j > 0 { "*" } else { "" })?;
                }
            }
        }
        Ok(())
    }
}
impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_expressions_are_equal() {
        let (s, b) = (Dim::symbol("seq"), Dim::symbol("batch"));
        assert_eq!(s.clone() * Dim::Known(2) + s.clone(), Dim::Known(3) * s.clone());
        assert_eq!(
            (s.clone() + b.clone()) * (s.clone() + b.clone()),
            s.clone() * s.clone() + Dim::Known(2) * s.clone() * b.clone() + b.clone() * b.clone()
        );
        assert_eq!(
            (s.clone() * b.clone() * Dim::Known(12)).floor_div(&(b.clone() * Dim::Known(4))),
            s.clone() * Dim::Known(3)
        );
        assert_eq!(s.clone() - s, Dim::Known(0));
    }

    #[test]
    fn evaluates_and_prints() {
        for by in [0, -1] {
            // No remainder is taken of a division by zero or beyond the range.
            let open = (Dim::symbol("s") * Dim::Known(i64::MIN)).floor_div(&Dim::Known(by));
            assert!(open.bind(&Bindings::from([("s".into(), 1)])) >= Dim::Known(0));
            assert!(Dim::Known(i64::MIN).floor_div(&Dim::Known(by)) >= Dim::Known(0));
        }
        let d = (Dim::symbol("seq") + Dim::Known(-1)).floor_div(&Dim::Known(2)) + Dim::Known(1);
        assert_eq!(d.to_string(), "floordiv(seq - 1, 2) + 1");
        assert_eq!(d.eval(&Bindings::from([("seq".into(), 8)])), Ok(4));
        assert_eq!(d.eval(&Bindings::new()), Err("seq".into()));
        assert_eq!(Dim::Known(-7).floor_div(&Dim::Known(2)), Dim::Known(-4));
        assert_eq!(
            Dim::symbol("s").ceil_div(&Dim::Known(4)).bind(&Bindings::from([("s".into(), 5)])),
            Dim::Known(2)
        );
    }
}
