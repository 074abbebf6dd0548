//! Ragged products against plain f64 loops: empty groups, odd sizes, bad offsets.

use perilune_plan::{DType, Epilogue, Launch, Ragged, RaggedForm, StepOp};
use perilune_runtime::{HostTensor, RuntimeError};
use proptest::prelude::*;

use crate::support::{PlanBuilder, add_one, assert_close, noise_tensor, values, whole};

/// Extents of a ragged product; `a` has `pad` unused elements after each row.
#[derive(Clone, Copy, Debug)]
struct Case {
    form: RaggedForm,
    groups: u64,
    rows: u64,
    k: u64,
    n: u64,
    pad: u64,
    /// The weights are `[groups, n, k]` instead of `[groups, k, n]`.
    transposed: bool,
}

impl Case {
    fn shapes(&self) -> [u64; 3] {
        let Case { groups, rows, k, n, .. } = *self;
        let a = rows * (k + self.pad);
        match self.form {
            RaggedForm::Rows => [a, groups * k * n, rows * n],
            RaggedForm::Outer => [a, rows * n, groups * k * n],
        }
    }

    fn b_strides(&self) -> [i64; 3] {
        let (k, n) = (self.k as i64, self.n as i64);
        match (self.form, self.transposed) {
            (RaggedForm::Rows, false) => [k * n, n, 1],
            (RaggedForm::Rows, true) => [k * n, 1, k],
            (RaggedForm::Outer, _) => [0, n, 1],
        }
    }

    fn builder(&self, dtype: DType) -> PlanBuilder {
        let mut builder = PlanBuilder::new();
        let [a, b, c] = self.shapes();
        let (a, b) = (builder.feed(dtype, &[a]), builder.feed(dtype, &[b]));
        let offsets = builder.feed(DType::i32, &[self.groups + 1]);
        let c = builder.result(dtype, &[c]);
        builder.step(StepOp::Ragged(Ragged {
            form: self.form,
            a: whole(a),
            a_row: (self.k + self.pad) as i64,
            b: whole(b),
            b_strides: self.b_strides(),
            c: whole(c),
            offsets: whole(offsets),
            rows: self.rows,
            groups: self.groups,
            k: self.k,
            n: self.n,
            epilogue: None,
        }));
        builder
    }

    /// The same, with an epilogue that adds 1 to each element of the result, row by row.
    fn with_epilogue(&self) -> PlanBuilder {
        let mut builder = self.builder(DType::f32);
        let kernel = builder.kernel(add_one(self.shapes()[2], self.n));
        let step = builder.entry().steps.last_mut().map(|step| &mut step.op);
        let Some(StepOp::Ragged(ragged)) = step else { panic!("the step is ragged") };
        let launch = Launch { kernel, args: vec![ragged.c.buffer] };
        ragged.epilogue = Some(Epilogue { launch, row: self.n });
        builder
    }

    fn feeds(&self, dtype: DType, offsets: &[i32]) -> Vec<HostTensor> {
        let [a, b, _] = self.shapes();
        let noise = |seed, elems| noise_tensor(seed, &[elems]).cast(dtype).expect("a float type");
        let count = offsets.len() as u64;
        let offsets = HostTensor::from_i32(&[count], offsets).expect("the shape fits");
        vec![noise(1, a), noise(2, b), offsets]
    }

    fn truth(&self, a: &[f64], b: &[f64], offsets: &[i32]) -> Vec<f64> {
        let (k, n, a_row) = (self.k as usize, self.n as usize, (self.k + self.pad) as usize);
        let [bg, bk, bn] = self.b_strides().map(|s| s as usize);
        let mut c = vec![0.0; self.shapes()[2] as usize];
        for (g, pair) in offsets.windows(2).enumerate() {
            for r in pair[0] as usize..pair[1] as usize {
                for i in 0..k {
                    for j in 0..n {
                        match self.form {
                            RaggedForm::Rows => {
                                c[r * n + j] += a[r * a_row + i] * b[g * bg + i * bk + j * bn];
                            }
                            RaggedForm::Outer => {
                                c[(g * k + i) * n + j] += a[r * a_row + i] * b[r * n + j];
                            }
                        }
                    }
                }
            }
        }
        c
    }

    fn check(&self, dtype: DType, offsets: &[i32], tolerance: f64) {
        let feeds = self.feeds(dtype, offsets);
        let found = self.builder(dtype).run_all(&feeds);
        let truth = self.truth(&values(&feeds[0]), &values(&feeds[1]), offsets);
        assert_close(&values(&found[0]), &truth, tolerance, &format!("{self:?}"));
        if self.n > 0 && dtype == DType::f32 {
            let found = self.with_epilogue().run_all(&feeds);
            let truth: Vec<f64> = truth.iter().map(|x| x + 1.0).collect();
            assert_close(&values(&found[0]), &truth, tolerance, &format!("epilogue of {self:?}"));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_ragged_product_equals_plain_loops(
        sizes in prop::collection::vec(prop_oneof![Just(0u64), 0u64..9], 0..6),
        (k, n, pad) in (0u64..20, 0u64..20, 0u64..3),
        (outer, transposed, bf16) in any::<(bool, bool, bool)>(),
        spare in 0u64..3,
    ) {
        let mut offsets = vec![0i32];
        for size in &sizes {
            offsets.push(offsets[offsets.len() - 1] + *size as i32);
        }
        let form = if outer { RaggedForm::Outer } else { RaggedForm::Rows };
        let rows = sizes.iter().sum::<u64>() + spare;
        let case = Case { form, groups: sizes.len() as u64, rows, k, n, pad, transposed };
        let (dtype, tolerance) = if bf16 { (DType::bf16, 1e-2) } else { (DType::f32, 1e-5) };
        case.check(dtype, &offsets, tolerance);
    }
}

#[test]
fn groups_larger_than_a_tile_equal_plain_loops() {
    for form in [RaggedForm::Rows, RaggedForm::Outer] {
        let case = Case { form, groups: 3, rows: 700, k: 150, n: 270, pad: 0, transposed: true };
        case.check(DType::f32, &[0, 0, 600, 700], 5e-5);
    }
}

#[test]
fn offsets_out_of_order_or_out_of_bounds_are_refused() {
    let case =
        Case { form: RaggedForm::Rows, groups: 3, rows: 10, k: 4, n: 4, pad: 0, transposed: false };
    for bad in [[0, 5, 4, 10], [0, 5, 11, 11], [1, 2, 3, 10], [0, -1, 3, 10], [-4, 2, 3, 10]] {
        let error = case.builder(DType::f32).run(2, &case.feeds(DType::f32, &bad)).err();
        let named = matches!(&error, Some(RuntimeError::Step { node, .. }) if node == "test.node");
        assert!(named, "{bad:?}: {error:?}");
    }
}
