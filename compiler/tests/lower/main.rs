//! Code generation: kernels through loops and CLIF, run and compared with their evaluation in f64.

mod gpu;
mod gpu_math;
mod jit;
mod kernels;
mod make;
mod models;
mod math;
#[path = "../ptx/ptxas.rs"]
mod ptxas;
mod random;
mod snapshots;
mod vm;
