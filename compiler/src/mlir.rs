//! MLIR through melior: one context, and parse, verify, run passes, print.
//!
//! # Invariants
//! - MLIR text reaches the context only through [`Mlir::parse`], which verifies it.
//! - Diagnostics never go to standard error: they end up in an [`InternalError`].
//! - Single-threaded: no pass order depends on a thread pool.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use melior::Context;
use melior::dialect::DialectRegistry;
use melior::ir::Module;
use melior::ir::operation::{OperationLike, OperationPrintingFlags};
use melior::pass::PassManager;
use melior::utility::{
    parse_pass_pipeline, register_all_dialects, register_all_llvm_translations, register_all_passes,
};

use crate::diagnostic::InternalError;

/// An MLIR context with every upstream dialect and pass.
pub struct Mlir {
    context: Context,
    messages: Rc<RefCell<Vec<String>>>,
    dialect_loaded: Cell<bool>,
}

/// What the first line of a reproducer begins with, before the command that it shows it with.
pub const REPLAY: &str = "// replay: ";

fn replayed(command: &str, text: &str) -> String {
    format!("{REPLAY}{command}\n{text}")
}

/// The `perilune` dialect, as IRDL.
pub const DIALECT: &str = include_str!("program/perilune.irdl.mlir");

impl Default for Mlir {
    fn default() -> Self {
        Mlir::new()
    }
}

impl Mlir {
    /// A context; dialects load when a text first names them.
    pub fn new() -> Self {
        register_all_passes();
        let registry = DialectRegistry::new();
        register_all_dialects(&registry);
        let context = Context::new_with_registry(&registry, false);
        register_all_llvm_translations(&context);
        let messages = Rc::new(RefCell::new(Vec::new()));
        let sink = Rc::clone(&messages);
        context.attach_diagnostic_handler(move |d| {
            sink.borrow_mut().push(d.to_string());
            true
        });
        Mlir { context, messages, dialect_loaded: Cell::new(false) }
    }

    /// The melior context.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Makes the [`perilune` dialect](DIALECT) known, once.
    ///
    /// # Errors
    /// When MLIR refuses it.
    pub fn load_dialect(&self) -> Result<(), InternalError> {
        if self.dialect_loaded.get() {
            return Ok(());
        }
        let module = self.parse("dialect", DIALECT)?;
        // SAFETY: the module is alive during the call, which copies what it needs into the context.
        let loaded = unsafe { mlir_sys::mlirLoadIRDLDialects(module.to_raw()) };
        if loaded.value == 0 {
            return Err(self.error("dialect", "dialect refused", DIALECT));
        }
        self.dialect_loaded.set(true);
        Ok(())
    }

    /// Parses and verifies a module.
    ///
    /// # Errors
    /// When MLIR refuses the text; `pass` names who wrote it.
    pub fn parse(&self, pass: &'static str, text: &str) -> Result<Module<'_>, InternalError> {
        self.messages.borrow_mut().clear();
        let refused = || self.error(pass, "text refused", &replayed("mlir-opt", text));
        Module::parse(&self.context, text).ok_or_else(refused)
    }

    /// Runs a textual pass pipeline, `builtin.module(canonicalize,cse)`, verifying after each pass.
    ///
    /// # Errors
    /// When the pipeline does not parse, a pass fails, or its result does not verify.
    pub fn run(
        &self,
        pass: &'static str,
        module: &mut Module<'_>,
        pipeline: &str,
    ) -> Result<(), InternalError> {
        self.messages.borrow_mut().clear();
        let manager = PassManager::new(&self.context);
        if let Err(e) = parse_pass_pipeline(manager.as_operation_pass_manager(), pipeline) {
            return Err(self.error(pass, &e.to_string(), pipeline));
        }
        let before = module.as_operation().to_string();
        let command = format!("mlir-opt --pass-pipeline='{pipeline}'");
        manager
            .run(module)
            .map_err(|e| self.error(pass, &e.to_string(), &replayed(&command, &before)))
    }

    /// The module's text, without locations.
    ///
    /// # Errors
    /// When the text is not UTF-8.
    pub fn print(&self, pass: &'static str, module: &Module<'_>) -> Result<String, InternalError> {
        module
            .as_operation()
            .to_string_with_flags(OperationPrintingFlags::new())
            .map_err(|e| self.error(pass, &e.to_string(), ""))
    }

    fn error(&self, pass: &'static str, what: &str, reproducer: &str) -> InternalError {
        let mut message = what.to_string();
        for m in self.messages.borrow_mut().drain(..) {
            message.push_str(": ");
            message.push_str(&m);
        }
        InternalError { pass, message, reproducer: reproducer.to_string() }
    }
}
