//! Index expressions: sums of loop variables with integer coefficients.
//!
//! Reshape, slice and broadcast act on these symbolically, so a division is emitted only where a
//! reshape really cuts across a loop variable.
//!
//! # Invariants
//! - Terms are sorted by variable and have non-zero coefficients; equal expressions are equal data.

/// A variable: a loop's, or a computed index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Var(pub(crate) u32);

/// What is known of a variable.
#[derive(Clone, Debug)]
pub(crate) struct VarInfo {
    /// How its value is read, per lane.
    pub(crate) source: Source,
    /// Nesting depth of the loop that defines it.
    pub(crate) depth: usize,
    /// Least value (of lane 0).
    pub(crate) lo: i64,
    /// Greatest value, all lanes included.
    pub(crate) hi: i64,
    /// The value (of lane 0) is a multiple of this.
    pub(crate) align: i64,
}

/// The SSA values behind a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The same index in every lane.
    Uniform(String),
    /// Lane `k` is this plus `k`.
    Lanes(String),
    /// One index per lane.
    Each(Vec<String>),
}

/// `constant + Σ coefficient · variable`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Lin {
    /// Variables and coefficients.
    pub(crate) terms: Vec<(Var, i64)>,
    /// The constant.
    pub(crate) constant: i64,
}

/// The index of an element: one expression per dimension.
pub(crate) type Index = Vec<Lin>;

impl Lin {
    /// A constant.
    pub(crate) fn constant(value: i64) -> Lin {
        Lin { terms: Vec::new(), constant: value }
    }

    /// A variable.
    pub(crate) fn var(var: Var) -> Lin {
        Lin { terms: vec![(var, 1)], constant: 0 }
    }

    /// The sum of two expressions.
    pub(crate) fn add(&self, other: &Lin) -> Lin {
        let mut terms = self.terms.clone();
        for (v, c) in &other.terms {
            match terms.binary_search_by_key(v, |t| t.0) {
                Ok(i) => terms[i].1 += c,
                Err(i) => terms.insert(i, (*v, *c)),
            }
        }
        terms.retain(|t| t.1 != 0);
        Lin { terms, constant: self.constant + other.constant }
    }

    /// The expression plus a constant.
    pub(crate) fn offset(&self, by: i64) -> Lin {
        Lin { terms: self.terms.clone(), constant: self.constant + by }
    }

    /// The expression times a constant.
    pub(crate) fn scale(&self, by: i64) -> Lin {
        if by == 0 {
            return Lin::default();
        }
        Lin {
            terms: self.terms.iter().map(|(v, c)| (*v, c * by)).collect(),
            constant: self.constant * by,
        }
    }

    /// Coefficient of a variable.
    pub(crate) fn coefficient(&self, var: Var) -> i64 {
        self.terms.iter().find(|t| t.0 == var).map_or(0, |t| t.1)
    }

    /// Least and greatest value.
    pub(crate) fn range(&self, vars: &[VarInfo]) -> (i64, i64) {
        self.terms.iter().fold((self.constant, self.constant), |(lo, hi), (v, c)| {
            let info = &vars[v.0 as usize];
            if *c > 0 {
                (lo + c * info.lo, hi + c * info.hi)
            } else {
                (lo + c * info.hi, hi + c * info.lo)
            }
        })
    }

    /// Deepest loop the expression depends on.
    pub(crate) fn depth(&self, vars: &[VarInfo]) -> usize {
        self.terms.iter().map(|(v, _)| vars[v.0 as usize].depth).max().unwrap_or(0)
    }

    /// Whether lanes differ.
    pub(crate) fn has_lanes(&self, vars: &[VarInfo]) -> bool {
        self.terms.iter().any(|(v, _)| !matches!(vars[v.0 as usize].source, Source::Uniform(_)))
    }

    /// How far lane `k + 1` is from lane `k`; `None` if that is not constant.
    pub(crate) fn lane_stride(&self, vars: &[VarInfo]) -> Option<i64> {
        self.terms.iter().try_fold(0, |sum, (v, c)| match vars[v.0 as usize].source {
            Source::Uniform(_) => Some(sum),
            Source::Lanes(_) => Some(sum + c),
            Source::Each(_) => None,
        })
    }

    /// Whether lane 0 is always a multiple of `n`.
    pub(crate) fn multiple_of(&self, n: i64, vars: &[VarInfo]) -> bool {
        self.constant % n == 0
            && self.terms.iter().all(|(v, c)| (c * vars[v.0 as usize].align) % n == 0)
    }

    /// Quotient and remainder by `n` where both are again sums: the multiples of `n` on one side,
    /// and what stays within `0..n` on the other.
    pub(crate) fn split(&self, n: i64, vars: &[VarInfo]) -> Option<(Lin, Lin)> {
        let (whole, part): (Vec<_>, Vec<_>) = self.terms.iter().partition(|(_, c)| c % n == 0);
        let rest = Lin { terms: part, constant: self.constant.rem_euclid(n) };
        let (lo, hi) = rest.range(vars);
        if lo < 0 || hi >= n {
            return None;
        }
        let terms = whole.into_iter().map(|(v, c)| (v, c / n)).collect();
        Some((Lin { terms, constant: self.constant.div_euclid(n) }, rest))
    }
}

/// Position of an index in a row-major array.
pub(crate) fn flatten(index: &[Lin], shape: &[u64]) -> Lin {
    let mut stride = 1i64;
    let mut sum = Lin::default();
    for (lin, extent) in index.iter().zip(shape).rev() {
        sum = sum.add(&lin.scale(stride));
        stride *= (*extent).max(1) as i64;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn var(lo: i64, hi: i64) -> VarInfo {
        VarInfo { source: Source::Uniform("i".into()), depth: 1, lo, hi, align: 1 }
    }

    #[test]
    fn splitting_a_merged_index_gives_back_its_parts() {
        let vars = [var(0, 6), var(0, 15)];
        let (i, j) = (Lin::var(Var(0)), Lin::var(Var(1)));
        let flat = flatten(&[i.clone(), j.clone()], &[7, 16]);
        assert_eq!(flat.split(16, &vars), Some((i, j)));
    }

    #[test]
    fn an_index_that_crosses_the_boundary_does_not_split() {
        let vars = [var(0, 31)];
        assert_eq!(Lin::var(Var(0)).split(16, &vars), None);
    }
}
