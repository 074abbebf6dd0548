//! The executor: every step against plain f64 loops, the same bits for any number of threads,
//! typed errors for whatever comes from outside.

mod attention;
mod contract;
mod ptx_vm;
mod ragged;
mod session;
mod support;
