//! Small plans for the executor's tests: operands are feeds, results are fetches.
use perilune_plan::{
    Buffer, DType, Entry, FORMAT_VERSION, FeedDecl, FetchDecl, KernelDecl, KernelParam, Mesh,
    Place, Plan, Step, StepOp, View,
};
use perilune_runtime::{HostTensor, Options, RuntimeError, Session};

/// A plan of one entry, `main`, under construction.
pub(crate) struct PlanBuilder {
    pub(crate) plan: Plan,
}

impl PlanBuilder {
    pub(crate) fn new() -> Self {
        let entry = Entry {
            name: "main".to_owned(),
            feeds: Vec::new(),
            fetches: Vec::new(),
            arena_bytes: 0,
            buffers: Vec::new(),
            steps: Vec::new(),
        };
        let plan = Plan {
            format: FORMAT_VERSION,
            name: "test".to_owned(),
            target: "cpu".to_owned(),
            mesh: Mesh::default(),
            machine: None,
            tensors: Vec::new(),
            kernels: Vec::new(),
            entries: vec![entry],
            nodes: vec!["test.node".to_owned()],
        };
        PlanBuilder { plan }
    }

    pub(crate) fn entry(&mut self) -> &mut Entry {
        &mut self.plan.entries[0]
    }

    fn buffer(&mut self, dtype: DType, elems: u64, place: Place) -> u32 {
        self.entry().buffers.push(Buffer { dtype, elems, place });
        self.entry().buffers.len() as u32 - 1
    }

    /// A feed, named `f0`, `f1`, … in order.
    pub(crate) fn feed(&mut self, dtype: DType, shape: &[u64]) -> u32 {
        let index = self.entry().feeds.len() as u32;
        let name = format!("f{index}");
        self.entry().feeds.push(FeedDecl { name, dtype, shape: shape.to_vec(), shard: None });
        self.buffer(dtype, shape.iter().product(), Place::Feed(index))
    }

    /// An arena buffer.
    pub(crate) fn temporary(&mut self, dtype: DType, elems: u64) -> u32 {
        let offset = self.entry().arena_bytes;
        self.entry().arena_bytes = (offset + elems * dtype.bytes()).next_multiple_of(64);
        self.buffer(dtype, elems, Place::Arena(offset))
    }

    /// An arena buffer that is fetched, named `r0`, `r1`, … in order.
    pub(crate) fn result(&mut self, dtype: DType, shape: &[u64]) -> u32 {
        let buffer = self.temporary(dtype, shape.iter().product());
        self.fetch(buffer, shape);
        buffer
    }

    pub(crate) fn fetch(&mut self, buffer: u32, shape: &[u64]) {
        let name = format!("r{}", self.entry().fetches.len());
        self.entry().fetches.push(FetchDecl { name, shape: shape.to_vec(), buffer, shard: None });
    }

    pub(crate) fn kernel(&mut self, decl: KernelDecl) -> u32 {
        self.plan.kernels.push(decl);
        self.plan.kernels.len() as u32 - 1
    }

    pub(crate) fn step(&mut self, op: StepOp) {
        self.entry().steps.push(Step { op, nodes: vec![0], only: None });
    }

    /// Runs `main` with poisoned memory.
    pub(crate) fn run(
        &self,
        threads: usize,
        feeds: &[HostTensor],
    ) -> Result<Vec<HostTensor>, RuntimeError> {
        let options = Options { threads: Some(threads), poison: true, ..Options::default() };
        let mut session = Session::new(self.plan.clone(), options)?;
        let names: Vec<String> = (0..feeds.len()).map(|i| format!("f{i}")).collect();
        let feeds: Vec<(&str, &HostTensor)> = names.iter().map(String::as_str).zip(feeds).collect();
        // Twice: what a run leaves behind must not show in the next.
        let first = session.run("main", &feeds)?;
        let second = session.run("main", &feeds)?;
        let same = first.iter().zip(second.iter()).all(|(a, b)| a.1.bytes() == b.1.bytes());
        assert!(same, "a second run differs");
        Ok(first.iter().map(|(_, value)| value.clone()).collect())
    }

    /// Runs with 1, 2 and 3 threads and checks that the bits agree.
    pub(crate) fn run_all(&self, feeds: &[HostTensor]) -> Vec<HostTensor> {
        let one = self.run(1, feeds).expect("the plan is valid");
        for threads in [2, 3] {
            let more = self.run(threads, feeds).expect("the plan is valid");
            for (a, b) in one.iter().zip(&more) {
                assert!(a.bytes() == b.bytes(), "{threads} threads give other bits");
            }
        }
        one
    }
}

/// A kernel that adds 1 to each of `elems` f32 in place, `block_elems` of them a block.
pub(crate) fn add_one(elems: u64, block_elems: u64) -> KernelDecl {
    let text = format!(
        "function %add_one(i64, i64, i64) system_v {{
block0(v0: i64, v1: i64, v2: i64):
    v3 = load.i64 v0
    v4 = iconst.i64 {}
    v5 = imul v1, v4
    v6 = imul v2, v4
    v7 = f32const 0x1.0
    jump block1(v5)
block1(v8: i64):
    v9 = icmp slt v8, v6
    brif v9, block2, block3
block2:
    v10 = iadd v3, v8
    v11 = load.f32 v10
    v12 = fadd v11, v7
    store v12, v10
    v13 = iconst.i64 4
    v14 = iadd v8, v13
    jump block1(v14)
block3:
    return
}}",
        4 * block_elems
    );
    KernelDecl {
        name: "add_one".to_owned(),
        text,
        params: vec![KernelParam { dtype: DType::f32, elems, written: true }],
        blocks: elems / block_elems.max(1),
        threads: 1,
        shared: perilune_plan::SharedMemory::default(),
        flops: elems,
        bytes: 8 * elems,
        numerics: "f32".to_owned(),
    }
}

/// The whole of a buffer.
pub(crate) fn whole(buffer: u32) -> View {
    View { buffer, offset: 0 }
}

/// Numbers in −1..1 that differ from seed to seed.
pub(crate) fn noise(seed: u64, count: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..count)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// An f32 tensor of noise.
pub(crate) fn noise_tensor(seed: u64, shape: &[u64]) -> HostTensor {
    HostTensor::from_f32(shape, &noise(seed, shape.iter().product())).expect("the shape fits")
}

/// The values as f64.
pub(crate) fn values(tensor: &HostTensor) -> Vec<f64> {
    tensor.to_f32().expect("a floating-point tensor").iter().map(|v| f64::from(*v)).collect()
}

/// Asserts that each value is near its truth: `|x − y| ≤ tolerance · (1 + |y|)`.
pub(crate) fn assert_close(found: &[f64], truth: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), truth.len(), "{what}");
    for (i, (x, y)) in found.iter().zip(truth).enumerate() {
        let near = (x - y).abs() <= tolerance * (1.0 + y.abs()) || x == y;
        assert!(near, "{what}: element {i} is {x}, should be {y}");
    }
}
