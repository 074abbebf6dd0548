//! Machine code from CLIF text, compiled where it runs.
//!
//! # Invariants
//! - A kernel's text holds one function of its name, `(i64, i64, i64) system_v`, that calls nothing
//!   but the code generator's own library calls.
//! - The code lives as long as its [`Kernels`].

use std::collections::BTreeMap;
use std::sync::Mutex;

use cranelift_codegen::ir::{ExternalName, Function, UserFuncName, types};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{Context, FinalizedRelocTarget};
use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, ModuleReloc, default_libcall_names};
use perilune_plan::KernelDecl;

use super::pool::Pool;
use crate::RuntimeError;

/// The kernel ABI: addresses of the arguments, first block, one past the last block.
type KernelFn = unsafe extern "C" fn(*const *mut u8, i64, i64);

/// A compiled kernel.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    code: KernelFn,
}

impl Kernel {
    /// Runs blocks `begin..end`.
    ///
    /// # Safety
    /// The [`Kernels`] it came from is alive; `args` are as many addresses as the kernel has
    /// parameters, each valid for the elements that its parameter declares; no other thread writes
    /// what these blocks use, or uses what they write.
    pub unsafe fn call(self, args: &[*mut u8], begin: u64, end: u64) {
        // SAFETY: the caller's promise.
        unsafe { (self.code)(args.as_ptr(), begin as i64, end as i64) }
    }
}

/// The compiled kernels of a plan, in the plan's order.
pub struct Kernels {
    kernels: Vec<Kernel>,
    module: Option<JITModule>,
    code_bytes: u64,
}

/// What a thread hands back after compiling one kernel.
struct Code {
    bytes: Vec<u8>,
    alignment: u64,
    relocs: Vec<ModuleReloc>,
}

impl Kernels {
    /// Compiles every kernel, each distinct text once, in parallel.
    ///
    /// # Errors
    /// [`RuntimeError::Kernel`] names the first kernel (in plan order) that does not compile;
    /// [`RuntimeError::Host`] when the processor is not supported.
    pub fn compile(decls: &[KernelDecl], pool: &mut Pool) -> Result<Kernels, RuntimeError> {
        let isa = host_isa()?;
        let mut distinct: Vec<&KernelDecl> = Vec::new();
        let mut index_of: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        let mut uses = Vec::with_capacity(decls.len());
        for decl in decls {
            let index = *index_of.entry((&decl.name, &decl.text)).or_insert_with(|| {
                distinct.push(decl);
                distinct.len() - 1
            });
            uses.push(index);
        }

        let slots: Vec<Mutex<Option<Result<Code, String>>>> =
            distinct.iter().map(|_| Mutex::new(None)).collect();
        let outcome = pool.run(distinct.len() as u64, 1, &|range| {
            for i in range {
                let i = i as usize;
                let code = compile_one(distinct[i], FuncId::from_u32(i as u32), &isa);
                if let Ok(mut slot) = slots[i].lock() {
                    *slot = Some(code);
                }
            }
        });

        let mut module = JITModule::new(JITBuilder::with_isa(isa, default_libcall_names()));
        let mut ids = Vec::with_capacity(distinct.len());
        let mut code_bytes = 0;
        for (i, (decl, slot)) in distinct.iter().zip(slots).enumerate() {
            let fail = |what: String| RuntimeError::Kernel { kernel: decl.name.clone(), what };
            let code = slot.into_inner().ok().flatten();
            let code = match (code, outcome) {
                (Some(code), _) => code.map_err(fail)?,
                (None, _) => return Err(fail("the code generator failed".to_owned())),
            };
            code_bytes += code.bytes.len() as u64;
            ids.push(define(&mut module, i, &decl.name, &code).map_err(fail)?);
        }
        module.finalize_definitions().map_err(|error| RuntimeError::Host {
            what: format!("code memory cannot be made executable: {error}"),
        })?;
        let kernels = uses.iter().map(|i| Kernel { code: entry_point(&module, ids[*i]) }).collect();
        Ok(Kernels { kernels, module: Some(module), code_bytes })
    }

    /// Bytes of machine code.
    pub fn code_bytes(&self) -> u64 {
        self.code_bytes
    }

    /// The kernel at an index of the plan's list.
    pub fn get(&self, index: u32) -> Option<Kernel> {
        self.kernels.get(index as usize).copied()
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if let Some(module) = self.module.take() {
            // SAFETY: calling a kernel demands that its `Kernels` is alive, so no code of this
            // module is running or will run.
            unsafe { module.free_memory() }
        }
    }
}

fn entry_point(module: &JITModule, id: FuncId) -> KernelFn {
    let address = module.get_finalized_function(id);
    // SAFETY: `compile_one` has checked that the function has this signature and convention.
    unsafe { std::mem::transmute::<*const u8, KernelFn>(address) }
}

/// The code generator for this processor, at its best speed.
fn host_isa() -> Result<OwnedTargetIsa, RuntimeError> {
    let fail = |what: String| RuntimeError::Host { what };
    let mut flags = settings::builder();
    for (name, value) in
        [("opt_level", "speed"), ("is_pic", "false"), ("use_colocated_libcalls", "false")]
    {
        flags.set(name, value).map_err(|error| fail(error.to_string()))?;
    }
    let builder = cranelift_native::builder().map_err(|what| fail(what.to_owned()))?;
    builder.finish(settings::Flags::new(flags)).map_err(|error| fail(error.to_string()))
}

fn define(module: &mut JITModule, index: usize, name: &str, code: &Code) -> Result<FuncId, String> {
    let signature = module.make_signature();
    // The index keeps two texts under one name apart.
    let id = module
        .declare_function(&format!("{index}:{name}"), Linkage::Local, &signature)
        .map_err(|error| error.to_string())?;
    module
        .define_function_bytes(id, code.alignment, &code.bytes, &code.relocs)
        .map_err(|error| error.to_string())?;
    Ok(id)
}

fn compile_one(decl: &KernelDecl, id: FuncId, isa: &OwnedTargetIsa) -> Result<Code, String> {
    let mut functions =
        cranelift_reader::parse_functions(&decl.text).map_err(|error| error.to_string())?;
    let function = match (functions.pop(), functions.len()) {
        (Some(function), 0) => function,
        (_, others) => return Err(format!("the text holds {others} functions, not one")),
    };
    check_abi(&function, &decl.name, isa)?;
    let mut context = Context::for_function(function);
    context
        .compile(isa.as_ref(), &mut Default::default())
        .map_err(|error| format!("{:?}", error.inner))?;
    let compiled = context.compiled_code().ok_or("the code generator gave no code")?;
    let bytes = compiled.code_buffer().to_vec();
    let alignment = u64::from(compiled.buffer.alignment);
    let mut relocs = Vec::new();
    for reloc in compiled.buffer.relocs() {
        if matches!(
            reloc.target,
            FinalizedRelocTarget::ExternalName(
                ExternalName::TestCase(_) | ExternalName::User(_) | ExternalName::KnownSymbol(_)
            )
        ) {
            return Err("the kernel refers to a symbol outside itself".to_owned());
        }
        relocs.push(ModuleReloc::from_mach_reloc(reloc, &context.func, id));
    }
    Ok(Code { bytes, alignment, relocs })
}

/// The function has the kernel's name and the kernel ABI.
fn check_abi(function: &Function, name: &str, isa: &OwnedTargetIsa) -> Result<(), String> {
    let named = match &function.name {
        UserFuncName::Testcase(found) => found.raw() == name.as_bytes(),
        UserFuncName::User(_) => false,
    };
    if !named {
        return Err(format!("the text defines `{}`", function.name));
    }
    let signature = &function.signature;
    let is_abi = signature.returns.is_empty()
        && signature.params.len() == 3
        && signature.params.iter().all(|param| param.value_type == types::I64)
        && signature.call_conv == isa.default_call_conv();
    if is_abi { Ok(()) } else { Err(format!("`{signature}` is not the kernel ABI")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decl(name: &str, text: &str) -> KernelDecl {
        KernelDecl {
            name: name.to_owned(),
            text: text.to_owned(),
            params: Vec::new(),
            blocks: 1,
            threads: 1,
            shared: perilune_plan::SharedMemory::default(),
            flops: 0,
            bytes: 0,
            numerics: String::new(),
        }
    }

    const STORE_BLOCKS: &str = "function %f(i64, i64, i64) system_v {
block0(v0: i64, v1: i64, v2: i64):
    v3 = load.i64 v0
    store v1, v3
    store v2, v3+8
    return
}";

    #[test]
    fn a_kernel_receives_its_arguments_and_its_blocks() {
        let kernels = Kernels::compile(&[decl("f", STORE_BLOCKS)], &mut Pool::new(2));
        let kernels = kernels.expect("the text is valid");
        let mut out = [0u64; 2];
        let kernel = kernels.get(0).expect("there is one kernel");
        // SAFETY: the kernel writes two words through its only argument.
        unsafe { kernel.call(&[out.as_mut_ptr().cast()], 3, 9) };
        assert_eq!(out, [3, 9]);
        assert!(kernels.get(1).is_none());
    }

    #[test]
    fn bad_texts_are_errors_that_name_the_kernel() {
        let call = "function %f(i64, i64, i64) system_v {
    sig0 = () system_v
    fn0 = %abort sig0
block0(v0: i64, v1: i64, v2: i64):
    call fn0()
    return
}";
        let cases = [
            ("f", "function %f("),
            ("f", ""),
            ("f", call),
            ("g", STORE_BLOCKS),
            ("f", "function %f(i64) system_v {\nblock0(v0: i64):\n    return\n}"),
            ("f", &STORE_BLOCKS.replace("store v1", "store v9")),
            ("f", &format!("{STORE_BLOCKS}\n{STORE_BLOCKS}")),
        ];
        for (name, text) in cases {
            let error = Kernels::compile(&[decl(name, text)], &mut Pool::new(1)).err();
            assert!(
                matches!(&error, Some(RuntimeError::Kernel { kernel, .. }) if kernel == name),
                "{text}: {error:?}"
            );
        }
    }
}
