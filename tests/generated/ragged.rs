//! Products over groups of rows.

use perilune_plan::{DType, Ragged, RaggedForm, StepOp, View};

use crate::machine::{Buffer, Schedules, check};
use crate::reference;

struct Case<'a> {
    form: RaggedForm,
    offsets: &'a [u64],
    rows: u64,
    k: u64,
    n: u64,
    dtype: DType,
    schedules: Schedules,
}

impl Case<'_> {
    fn run(&self, transposed: bool) {
        let groups = self.offsets.len() as u64 - 1;
        let (k, n) = (self.k as i64, self.n as i64);
        let view = |buffer| View { buffer, offset: 0 };
        let b_strides = match (self.form, transposed) {
            (RaggedForm::Rows, false) => [k * n, n, 1],
            (RaggedForm::Rows, true) => [k * n, 1, k],
            (RaggedForm::Outer, _) => [0, n, 1],
        };
        let r = Ragged {
            form: self.form,
            a: view(0),
            a_row: k,
            b: view(1),
            b_strides,
            c: view(3),
            offsets: view(2),
            rows: self.rows,
            groups,
            k: self.k,
            n: self.n,
            epilogue: None,
        };
        let matrices = groups * self.k * self.n;
        let (b, c) = match self.form {
            RaggedForm::Rows => (matrices, self.rows * self.n),
            RaggedForm::Outer => (self.rows * self.n, matrices),
        };
        let before = [
            Buffer::random(self.dtype, self.rows * self.k, 1),
            Buffer::random(self.dtype, b, 2),
            Buffer::new(DType::i32, self.offsets.iter().map(|o| *o as f64)),
            Buffer::untouched(self.dtype, c),
        ];
        let mut expected = before.clone();
        reference::ragged(&r, &mut expected);
        let tolerance = if self.dtype == DType::f32 { 1e-5 } else { 1e-2 };
        check(&StepOp::Ragged(r), &before, &expected, (self.schedules, tolerance));
    }
}

const GROUPS: [&[u64]; 5] = [
    &[0, 10, 10, 43, 44],
    &[0, 0, 0, 44],
    &[0, 44, 44, 44],
    &[0, 0, 20, 20, 31],
    &[0, 1, 2, 3, 4, 5, 6, 44],
];

#[test]
fn rows_of_groups_match_whatever_the_groups() {
    for dtype in [DType::f32, DType::bf16] {
        for offsets in GROUPS {
            let schedules = Schedules::Chosen;
            let form = RaggedForm::Rows;
            Case { form, offsets, rows: 44, k: 32, n: 16, dtype, schedules }.run(false);
            Case { form, offsets, rows: 44, k: 31, n: 17, dtype, schedules }.run(true);
        }
    }
}

#[test]
fn outer_products_of_groups_match_whatever_the_groups() {
    for dtype in [DType::f32, DType::bf16] {
        for offsets in GROUPS {
            let schedules = Schedules::Chosen;
            let form = RaggedForm::Outer;
            Case { form, offsets, rows: 44, k: 32, n: 16, dtype, schedules }.run(false);
            Case { form, offsets, rows: 44, k: 31, n: 17, dtype, schedules }.run(false);
        }
    }
}

#[test]
fn every_tile_computes_the_same_groups() {
    for dtype in [DType::f32, DType::bf16] {
        for form in [RaggedForm::Rows, RaggedForm::Outer] {
            let offsets = &[0, 130, 130, 137, 200];
            let schedules = Schedules::EveryTile;
            Case { form, offsets, rows: 203, k: 40, n: 72, dtype, schedules }.run(false);
        }
    }
}

#[test]
fn no_rows_and_no_columns_are_groups_too() {
    for form in [RaggedForm::Rows, RaggedForm::Outer] {
        for (offsets, rows, k, n) in
            [(&[0, 0, 0][..], 0, 8, 8), (&[0, 4, 6], 6, 8, 0), (&[0, 4, 6], 6, 0, 8)]
        {
            let (dtype, schedules) = (DType::f32, Schedules::Chosen);
            Case { form, offsets, rows, k, n, dtype, schedules }.run(false);
        }
    }
}
