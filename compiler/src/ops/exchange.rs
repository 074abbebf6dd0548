//! `Exchange`: a collective between the ranks of a mesh; see [`CollectiveKind`] for what each does.
//!
//! The compiler puts it into the graph of a rank (`sharding`); a spec says what is computed, not
//! where, and cannot write it. It comes after differentiation and has no gradient.

use super::form::FormCx;
use super::support::{
    Rng, Sample, expect_dtype, expect_ndim, expect_operands, extent_of, f32_type, i32_type, moved,
};
use super::{Built, Cost, KernelBuilder, OpDef, TypeError, codes};
use crate::program::{Collective, CollectiveKind, DialectOp, OpKind, V};
use crate::tensor::Tensor;
use crate::types::{DType, Type};

/// A collective.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Exchange(pub Collective);

/// The operands of `Dispatch` and `Combine`: rows, and counts for each rank and expert.
fn expect_routed(operands: &[Type], ranks: u64) -> Result<(), TypeError> {
    expect_operands(operands, 3)?;
    expect_ndim(operands, 0, 2)?;
    (1..3).try_for_each(|i| expect_counts(operands, i, ranks))
}

fn expect_counts(operands: &[Type], i: usize, ranks: u64) -> Result<(), TypeError> {
    expect_dtype(operands, i, "i32", |d| d == DType::i32)?;
    expect_ndim(operands, i, 1)?;
    expect_multiple(operands, i, ranks)
}

fn expect_multiple(operands: &[Type], i: usize, ranks: u64) -> Result<(), TypeError> {
    if ranks > 0 && operands[i].shape[0].is_multiple_of(ranks) {
        return Ok(());
    }
    let headline = format!("{} elements are not divided by {ranks} ranks", operands[i].shape[0]);
    Err(TypeError::new(codes::EXTENTS_DIFFER, headline).operand(i, &operands[i]))
}

impl OpDef for Exchange {
    const NAME: &'static str = "Exchange";
    const SUMMARY: &'static str = "A collective between the ranks of a mesh.";
    const EXAMPLE: &'static str = "";

    type Form = ();

    fn build(_: (), _: &mut dyn FormCx) -> Option<Built<Self>> {
        None
    }

    fn attributes(&self) -> String {
        let Collective { kind, axes, ranks, roots } = &self.0;
        let axes: Vec<String> = axes.iter().map(u32::to_string).collect();
        let own = match kind {
            CollectiveKind::AllReduce(combine) | CollectiveKind::Reduce(combine) => {
                format!(" {}", combine.name())
            }
            CollectiveKind::AllGather { dim } => format!(" dim {dim}"),
            CollectiveKind::ExchangeCounts | CollectiveKind::Broadcast => String::new(),
            CollectiveKind::DispatchTokens { rows, per_token } => {
                format!(" to {rows} rows, {per_token} of a token")
            }
            CollectiveKind::Dispatch { rows } | CollectiveKind::Combine { rows } => {
                format!(" to {rows} rows")
            }
        };
        let to = match roots.as_slice() {
            [] => String::new(),
            roots => format!(" of roots {roots:?}"),
        };
        format!("{}{own} over axes {} of {ranks} ranks{to}", self.0.name(), axes.join(","))
    }

    fn infer(&self, operands: &[Type]) -> Result<Vec<Type>, TypeError> {
        let ranks = self.0.ranks;
        match self.0.kind {
            CollectiveKind::Broadcast => Ok(operands.to_vec()),
            CollectiveKind::AllReduce(_) | CollectiveKind::Reduce(_) => {
                let combined = |d: DType| !matches!(d, DType::f16 | DType::i1);
                (0..operands.len()).try_for_each(|i| {
                    expect_dtype(operands, i, "a type that is combined", combined)
                })?;
                Ok(operands.to_vec())
            }
            CollectiveKind::AllGather { dim } => {
                expect_operands(operands, 1)?;
                let extent = extent_of(operands, 0, dim)?;
                let mut whole = operands[0].clone();
                whole.shape[dim as usize] = extent.saturating_mul(ranks);
                Ok(vec![super::support::checked(whole.dtype, whole.shape)?])
            }
            CollectiveKind::ExchangeCounts => {
                expect_operands(operands, 1)?;
                expect_counts(operands, 0, ranks)?;
                Ok(operands.to_vec())
            }
            CollectiveKind::DispatchTokens { rows, per_token } => {
                expect_operands(operands, 4)?;
                expect_ndim(operands, 0, 2)?;
                (1..4).try_for_each(|i| expect_counts(operands, i, 1))?;
                (2..4).try_for_each(|i| expect_counts(operands, i, ranks))?;
                let (tokens, slots) = (operands[0].shape[0], operands[1].shape[0]);
                if tokens.checked_mul(per_token) != Some(slots) {
                    let headline = format!("{slots} rows of {tokens} tokens, {per_token} each");
                    return Err(TypeError::new(codes::EXTENTS_DIFFER, headline)
                        .operand(1, &operands[1]));
                }
                let width = operands[0].shape[1];
                Ok(vec![super::support::checked(operands[0].dtype, vec![rows, width])?])
            }
            CollectiveKind::Dispatch { rows } | CollectiveKind::Combine { rows } => {
                expect_routed(operands, ranks)?;
                let width = operands[0].shape[1];
                Ok(vec![super::support::checked(operands[0].dtype, vec![rows, width])?])
            }
        }
    }

    /// As if every rank of the group were this one.
    fn reference(&self, operands: &[&Tensor], types: &[Type], results: &[Type]) -> Vec<Tensor> {
        let ranks = self.0.ranks;
        match self.0.kind {
            CollectiveKind::Broadcast => operands.iter().map(|x| (*x).clone()).collect(),
            CollectiveKind::AllReduce(combine) | CollectiveKind::Reduce(combine) => operands
                .iter()
                .zip(types)
                .map(|(x, ty)| {
                    let all = |x: &f64| {
                        let step = |sum, _| crate::program::evaluate::combine(combine, ty.dtype, sum, *x);
                        (1..ranks).fold(*x, step)
                    };
                    Tensor { shape: x.shape.clone(), data: x.data.iter().map(all).collect() }
                })
                .collect(),
            CollectiveKind::AllGather { dim } => {
                let part = types[0].shape[dim as usize];
                vec![Tensor::from_fn(&results[0].shape, |index| {
                    let mut at = index.to_vec();
                    at[dim as usize] %= part.max(1);
                    operands[0].at(&at)
                })]
            }
            CollectiveKind::ExchangeCounts => {
                let piece = (operands[0].data.len() / ranks as usize).max(1);
                let own = &operands[0].data[..piece.min(operands[0].data.len())];
                let data = own.iter().copied().cycle().take(operands[0].data.len()).collect();
                vec![Tensor { shape: operands[0].shape.clone(), data }]
            }
            CollectiveKind::DispatchTokens { per_token, .. } => {
                let (tokens, order) = (operands[0], &operands[1].data);
                let rows = operands[2].data.iter().sum::<f64>() as usize;
                vec![Tensor::from_fn(&results[0].shape, |index| {
                    let row = index[0] as usize;
                    let slot = order.get(row).filter(|_| row < rows);
                    let token = slot.map(|slot| *slot as u64 / per_token.max(1));
                    token.map_or(0.0, |token| tokens.at(&[token, index[1]]))
                })]
            }
            CollectiveKind::Dispatch { .. } | CollectiveKind::Combine { .. } => {
                let rows = operands[1].data.iter().sum::<f64>() as u64;
                vec![Tensor::from_fn(&results[0].shape, |index| {
                    let held = index[0] < rows && index[0] < types[0].shape[0];
                    if held { operands[0].at(index) } else { 0.0 }
                })]
            }
        }
    }

    fn lower(&self, cx: &mut KernelBuilder, operands: &[V], results: &[Type]) -> Vec<V> {
        let kind = OpKind::Dialect(DialectOp::Collective(self.0.clone()));
        cx.push_many(kind, operands, results.to_vec())
    }

    fn cost(&self, operands: &[Type], results: &[Type]) -> Cost {
        moved(operands, results)
    }

    fn sample(rng: &mut Rng) -> Sample<Self> {
        let (rows, width, experts) = (rng.extent() + 1, rng.extent() + 1, rng.extent() + 1);
        let (kind, types) = match rng.below(3) {
            0 => {
                let shape = rng.extents(2);
                (CollectiveKind::AllGather { dim: rng.below(2) }, vec![f32_type(&shape)])
            }
            1 => (CollectiveKind::ExchangeCounts, vec![i32_type(&[experts])]),
            _ => {
                let counts = i32_type(&[experts]);
                let types = vec![f32_type(&[rows, width]), counts.clone(), counts];
                (CollectiveKind::Dispatch { rows: rows + 2 }, types)
            }
        };
        Sample::random(Exchange(Collective { kind, axes: vec![0], ranks: 1, roots: Vec::new() }), types, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_rank_exchanges_with_itself_it_keeps() {
        for seed in 0..60 {
            let sample = Exchange::sample(&mut Rng::new(seed));
            let results = sample.op.infer(&sample.types).expect("a sample fits its op");
            let operands: Vec<&Tensor> = sample.operands.iter().collect();
            let made = sample.op.reference(&operands, &sample.types, &results);
            assert_eq!(made[0].shape, results[0].shape);
            if !matches!(sample.op.0.kind, CollectiveKind::Dispatch { .. }) {
                assert_eq!(made[0], sample.operands[0]);
            }
        }
    }

    #[test]
    fn counts_that_the_ranks_do_not_divide_are_refused() {
        let kind = CollectiveKind::ExchangeCounts;
        let op = Exchange(Collective { kind, axes: vec![0], ranks: 3, roots: Vec::new() });
        assert!(op.infer(&[i32_type(&[6])]).is_ok() && op.infer(&[i32_type(&[7])]).is_err());
    }
}
