//! Generated kernels in the PTX virtual machine, all checks on, against plain f64 loops over what
//! the plan's steps say: odd sizes, strides, empty groups, extents of zero, every tile of the search
//! space.

mod attention;
mod contract;
mod machine;
mod ragged;
mod reference;
