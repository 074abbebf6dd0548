//! Runs CLIF text in tests: reader, JIT, call.

use cranelift_codegen::settings::{self, Configurable};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{Linkage, Module, default_libcall_names};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};

/// A compiled kernel.
pub(crate) struct Jit {
    code: *const u8,
    _module: JITModule,
}

impl Jit {
    /// Compiles one function.
    pub(crate) fn new(text: &str) -> Jit {
        let mut flags = settings::builder();
        flags.set("opt_level", "speed").expect("a known flag");
        flags.set("is_pic", "false").expect("a known flag");
        let isa = cranelift_native::builder()
            .expect("the host is supported")
            .finish(settings::Flags::new(flags))
            .expect("the flags fit the host");
        let mut module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
        let mut functions = cranelift_reader::parse_functions(text)
            .unwrap_or_else(|e| panic!("{e}\n{}", numbered(text)));
        let function = functions.remove(0);
        let id = module
            .declare_function("kernel", Linkage::Export, &function.signature)
            .expect("declares");
        let mut context = module.make_context();
        context.func = function;
        module
            .define_function(id, &mut context)
            .unwrap_or_else(|e| panic!("{e:?}\n{}", numbered(text)));
        module.finalize_definitions().expect("finalizes");
        Jit { code: module.get_finalized_function(id), _module: module }
    }

    /// Runs a range of blocks.
    pub(crate) fn run(&self, args: &mut [Vec<u8>], begin: i64, end: i64) {
        let table: Vec<*mut u8> = args.iter_mut().map(|a| a.as_mut_ptr()).collect();
        // SAFETY: the code was compiled from a kernel with this signature, whose arguments are
        // buffers of the sizes it declares.
        let f: extern "C" fn(*const *mut u8, i64, i64) = unsafe { std::mem::transmute(self.code) };
        f(table.as_ptr(), begin, end);
    }
}

fn numbered(text: &str) -> String {
    text.lines().enumerate().map(|(i, l)| format!("{:4} {l}\n", i + 1)).collect()
}

/// Elements as bytes in memory.
pub(crate) fn to_bytes(t: &Tensor, dtype: DType) -> Vec<u8> {
    let mut out = Vec::new();
    for v in &t.data {
        match dtype {
            DType::f64 => out.extend(v.to_le_bytes()),
            DType::f32 => out.extend((*v as f32).to_le_bytes()),
            DType::bf16 => out.extend(half::bf16::from_f64(*v).to_le_bytes()),
            DType::f16 => out.extend(half::f16::from_f64(*v).to_le_bytes()),
            DType::i32 => out.extend((*v as i32).to_le_bytes()),
            DType::i1 => out.push(u8::from(*v != 0.0)),
        }
    }
    out
}

/// Bytes in memory as elements.
pub(crate) fn from_bytes(bytes: &[u8], ty: &Type) -> Tensor {
    let width = ty.dtype.bytes() as usize;
    let element = |c: &[u8]| match ty.dtype {
        DType::f64 => f64::from_le_bytes(c.try_into().expect("8 bytes")),
        DType::f32 => f64::from(f32::from_le_bytes(c.try_into().expect("4 bytes"))),
        DType::bf16 => half::bf16::from_le_bytes(c.try_into().expect("2 bytes")).to_f64(),
        DType::f16 => half::f16::from_le_bytes(c.try_into().expect("2 bytes")).to_f64(),
        DType::i32 => f64::from(i32::from_le_bytes(c.try_into().expect("4 bytes"))),
        DType::i1 => f64::from(c[0]),
    };
    let data = bytes.chunks_exact(width).take(ty.elems() as usize).map(element).collect();
    Tensor { shape: ty.shape.clone(), data }
}
