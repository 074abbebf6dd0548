//! Runs a kernel's PTX in the virtual machine, every check on.

use perilune_compiler::lower::Lowered;
use perilune_compiler::program::Kernel;
use perilune_compiler::tensor::Tensor;
use perilune_ptx_vm::{Checks, Extents, Machine, Memory, Module, Options};

use crate::jit::{from_bytes, to_bytes};

/// Runs every block and yields the results, all of which must have been written.
pub(crate) fn run(kernel: &Kernel, lowered: &Lowered, args: &[Tensor]) -> Vec<Tensor> {
    let types = kernel.result_types();
    let result = |index: usize| format!("result {index}");
    let mut memory = Memory::default();
    let mut addresses = Vec::new();
    for (index, (tensor, ty)) in args.iter().zip(&kernel.params).enumerate() {
        let bytes = to_bytes(tensor, ty.dtype);
        addresses.push(memory.allocate(&format!("parameter {index}"), &bytes));
    }
    for (index, ty) in types.iter().enumerate() {
        addresses.push(memory.allocate_uninitialised(&result(index), ty.bytes()));
    }
    let address = |address: Option<u64>| address.expect("room in memory").to_le_bytes();
    let params = addresses.into_iter().flat_map(address).collect();
    if lowered.blocks > 0 {
        memory = launched(lowered, (params, memory));
    }
    let read = |(index, ty)| {
        let name = result(index);
        let unwritten = memory.known(&name).map_or(0, |k| k.iter().filter(|k| !**k).count());
        assert_eq!(unwritten, 0, "bytes of {name} that nothing wrote\n{}", lowered.text);
        from_bytes(&memory.read(&name).expect("a result"), ty)
    };
    types.iter().enumerate().map(read).collect()
}

fn launched(lowered: &Lowered, prepared: (Vec<u8>, Memory)) -> Memory {
    let text = &lowered.text;
    let module = Module::parse_named(&lowered.name, text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let extents = Extents {
        grid: [u32::try_from(lowered.blocks).expect("a grid"), 1, 1],
        block: [lowered.threads, 1, 1],
        cluster: None,
        shared_bytes: lowered.shared.dynamic_bytes,
    };
    let options = Options { checks: Checks::all(), ..Options::default() };
    let outcome = Machine::run_with(&module, &lowered.name, extents, prepared, &options)
        .unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert!(outcome.findings.is_empty(), "{}\n{text}", outcome.findings[0]);
    assert!(outcome.completed, "{text}");
    outcome.memory
}
