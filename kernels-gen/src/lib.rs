//! The place of tensor-core kernels: schedules as data, and what turns a schedule into code.
//!
//! Empty so far: on CPUs contractions run on a kept GEMM library, and PTX is emitted for generic
//! kernels only.
