//! Runs a kernel's gpu-dialect text on the CPU: one operating-system thread per GPU thread, so that
//! shuffles and barriers meet as they do on a GPU.
//!
//! # Invariants
//! - Instructions that only NVIDIA has are replaced by exact functions; the rest of the text is run
//!   as it stands, through LLVM's JIT.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use melior::ExecutionEngine;
use perilune_compiler::lower::Lowered;
use perilune_compiler::mlir::Mlir;
use perilune_compiler::program::Kernel;
use perilune_compiler::tensor::Tensor;

use crate::jit::{from_bytes, to_bytes};

const WARP: usize = 32;

// bf16 conversions are expanded: a host without them would look for a function of compiler-rt.
const TO_LLVM: &str = "builtin.module(canonicalize,cse,arith-expand{include-bf16=true},\
    convert-scf-to-cf,convert-cf-to-llvm,convert-vector-to-llvm,convert-math-to-llvm,finalize-memref-to-llvm,convert-arith-to-llvm,\
    convert-func-to-llvm{use-bare-ptr-memref-call-conv=true},reconcile-unrealized-casts)";

/// Functions that stand for instructions.
const INSTRUCTIONS: &str = "\
func.func private @shuffle_f32(f32, i32) -> f32
func.func private @shuffle_i32(i32, i32) -> i32
func.func private @barrier()
func.func private @warp_barrier()
func.func private @exp2f(f32) -> f32
func.func @\"nvvm.ex2.approx.ftz\"(%x: f32) -> f32 {
  %y = func.call @exp2f(%x) : (f32) -> f32
  return %y : f32
}
func.func @\"nvvm.rcp.approx.ftz.f\"(%x: f32) -> f32 {
  %one = arith.constant 1.0 : f32
  %y = arith.divf %one, %x : f32
  return %y : f32
}
func.func @\"nvvm.rsqrt.approx.ftz.f\"(%x: f32) -> f32 {
  %one = arith.constant 1.0 : f32
  %root = math.sqrt %x : f32
  %y = arith.divf %one, %root : f32
  return %y : f32
}
";

/// What the threads of a block share.
struct Block {
    slots: Vec<AtomicU32>,
    warps: Vec<Barrier>,
    all: Barrier,
}

thread_local! {
    static THREAD: RefCell<Option<(Arc<Block>, usize)>> = const { RefCell::new(None) };
}

fn here<T>(f: impl FnOnce(&Block, usize) -> T) -> T {
    THREAD.with_borrow(|t| {
        let (block, thread) = t.as_ref().expect("runs on a thread of a block");
        f(block, *thread)
    })
}

fn exchange(bits: u32, distance: i32) -> u32 {
    here(|block, thread| {
        let warp = &block.warps[thread / WARP];
        block.slots[thread].store(bits, Ordering::SeqCst);
        warp.wait();
        let other = block.slots[thread ^ distance as usize].load(Ordering::SeqCst);
        warp.wait();
        other
    })
}

extern "C" fn shuffle_f32(value: f32, distance: i32) -> f32 {
    f32::from_bits(exchange(value.to_bits(), distance))
}

extern "C" fn shuffle_i32(value: i32, distance: i32) -> i32 {
    exchange(value as u32, distance) as i32
}

extern "C" fn barrier() {
    here(|block, _| block.all.wait());
}

extern "C" fn warp_barrier() {
    here(|block, thread| block.warps[thread / WARP].wait());
}

extern "C" fn exp2f(x: f32) -> f32 {
    f64::from(x).exp2() as f32
}

/// The kernel as a function of its memories, the block's memory, the block and the thread.
fn as_function(text: &str) -> String {
    let mut out = INSTRUCTIONS.to_string();
    for line in text.lines() {
        let line = line.trim().replace(", #gpu.address_space<workgroup>", "");
        if line.starts_with("module") || line.starts_with("gpu.module") {
            continue;
        }
        if let Some(rest) = line.strip_prefix("gpu.func @") {
            let (from, to) = (rest.find('(').expect("parameters"), rest.find(')').expect("end"));
            let parameters = &rest[from + 1..to];
            let _ = writeln!(
                out,
                "func.func @kernel({parameters}, %shared: memref<8xi32>, %the_block: index, \
                 %the_thread: index) {{\n%nothing = arith.constant 0 : index"
            );
        } else if line == "gpu.return" {
            out.push_str("return\n}\n");
            break;
        } else {
            out.push_str(&instruction(&line));
            out.push('\n');
        }
    }
    out
}

fn instruction(line: &str) -> String {
    let of = |name: &str| line.replace(name, "arith.addi %nothing,") + " : index";
    if line.ends_with("gpu.block_id x") {
        return of("gpu.block_id x").replace(", :", ", %the_block :");
    }
    if line.ends_with("gpu.thread_id x") {
        return of("gpu.thread_id x").replace(", :", ", %the_thread :");
    }
    if line == "gpu.barrier" {
        return "func.call @barrier() : () -> ()".into();
    }
    if line.starts_with("nvvm.bar.warp.sync") {
        return "func.call @warp_barrier() : () -> ()".into();
    }
    if let Some((names, rest)) = line.split_once(" = gpu.shuffle xor ") {
        let (args, ty) = rest.split_once(" : ").expect("a type");
        let first = names.split(',').next().expect("two results");
        let two = args.rsplit_once(',').expect("three arguments").0;
        return format!("{first} = func.call @shuffle_{ty}({two}) : ({ty}, i32) -> {ty}");
    }
    if line.contains("\"llvm.nvvm.") {
        return line.replace("llvm.call_intrinsic \"llvm.nvvm", "func.call @\"nvvm");
    }
    line.to_string()
}

/// Runs every thread of every block and yields the results.
pub(crate) fn run(kernel: &Kernel, lowered: &Lowered, args: &[Tensor]) -> Vec<Tensor> {
    let mlir = Mlir::new();
    let text = as_function(&lowered.loops);
    let mut module = mlir.parse("threads", &text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    mlir.run("threads", &mut module, TO_LLVM).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let engine = ExecutionEngine::new(&module, 1, &[], false, false);
    // SAFETY: the functions have the types that the text declares for them.
    unsafe {
        engine.register_symbol("shuffle_f32", shuffle_f32 as *mut ());
        engine.register_symbol("shuffle_i32", shuffle_i32 as *mut ());
        engine.register_symbol("barrier", barrier as *mut ());
        engine.register_symbol("warp_barrier", warp_barrier as *mut ());
        engine.register_symbol("exp2f", exp2f as *mut ());
    }
    let entry = engine.lookup("_mlir_kernel");
    assert!(!entry.is_null(), "{text}");
    let mut buffers: Vec<Vec<u8>> =
        args.iter().zip(&kernel.params).map(|(t, ty)| to_bytes(t, ty.dtype)).collect();
    for ty in kernel.result_types() {
        buffers.push(vec![0xaa; ty.bytes() as usize]);
    }
    let mut shared = vec![0u32; 8];
    let mut pointers: Vec<usize> = buffers.iter_mut().map(|b| b.as_mut_ptr() as usize).collect();
    pointers.push(shared.as_mut_ptr() as usize);
    let meets = text.contains("@shuffle_f32(%") || text.contains("@shuffle_i32(%");
    let call = Entry { address: entry as usize, pointers };
    for block in 0..lowered.blocks as usize {
        call.block(block, lowered.threads as usize, meets);
    }
    let types = kernel.result_types();
    buffers[kernel.params.len()..].iter().zip(&types).map(|(b, ty)| from_bytes(b, ty)).collect()
}

/// The compiled function and its memories.
struct Entry {
    address: usize,
    pointers: Vec<usize>,
}

impl Entry {
    /// Runs the threads of a block: at once if they meet, else one after the other.
    fn block(&self, block: usize, threads: usize, meets: bool) {
        if !meets {
            for thread in 0..threads {
                self.call(block, thread);
            }
            return;
        }
        let shared = Arc::new(Block {
            slots: (0..threads).map(|_| AtomicU32::new(0)).collect(),
            warps: (0..threads / WARP).map(|_| Barrier::new(WARP)).collect(),
            all: Barrier::new(threads),
        });
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let shared = Arc::clone(&shared);
                scope.spawn(move || {
                    THREAD.set(Some((shared, thread)));
                    self.call(block, thread);
                });
            }
        });
    }

    fn call(&self, block: usize, thread: usize) {
        let mut values = self.pointers.clone();
        values.extend([block, thread]);
        let mut packed: Vec<*mut ()> =
            values.iter_mut().map(|v| std::ptr::from_mut(v).cast()).collect();
        // SAFETY: the engine's packed entry takes the addresses of the arguments; the memories have
        // the sizes of the kernel's argument types and outlive the call; threads of a block write
        // different elements.
        unsafe {
            let entry: extern "C" fn(*mut *mut ()) = std::mem::transmute(self.address);
            entry(packed.as_mut_ptr());
        }
    }
}
