//! A derived model, compiled and loaded with the oracle's weights.
//!
//! # Invariants
//! - One [`Family`] per folder: the name table and the dims; each batch shape is compiled anew.

use std::collections::BTreeMap;

use perilune_compiler::spec::names::NamesSpec;
use perilune_plan::{DType, TensorKind};
use perilune_runtime::{DeviceKind, Fetches, HostTensor, Session};

use super::config::{self, Dims};
use super::oracle::{Expected, Oracle, tensor};
use super::spec::{self, Recipe};
use crate::exit::{Exit, Failure};
use crate::hf::{self, Mapped};
use crate::library::Library;
use crate::pipeline;

/// The name table of the DeepSeek-V3 / Kimi-K2 family, under `models/`.
const NAMES: &str = "hf/deepseek_v3.ron";

/// A model family, one member's dims, and what runs it.
#[derive(Clone, Debug)]
pub(super) struct Family {
    names: NamesSpec,
    dims: Dims,
    device: DeviceKind,
}

/// A compiled model with weights in it.
pub(super) struct Runner {
    session: Session,
    mapped: Vec<Mapped>,
}

impl Family {
    /// Reads the folder's config.
    ///
    /// # Errors
    /// When the config is not of this family. Where both forms of the config are there, they must agree.
    pub(super) fn of(oracle: &Oracle, device: DeviceKind) -> Result<Self, Failure> {
        let names = pipeline::load_names(&Library::default(), NAMES)?;
        let dims_of = |file: &str| -> Result<Option<Dims>, Failure> {
            let config = oracle.json(file)?;
            let dims = config.map(|c| config::dims(&names, &c)).transpose();
            dims.map_err(|e| Failure::new(Exit::Spec, format!("{file}: {e:#}")))
        };
        let dims = dims_of("config.json")?;
        let legacy = dims_of("config.legacy.json")?;
        match (dims, legacy) {
            (Some(new), Some(old)) if new != old => Err(Failure::new(
                Exit::Spec,
                "config.json and config.legacy.json describe different models",
            )),
            (Some(dims), _) | (None, Some(dims)) => Ok(Family { names, dims, device }),
            (None, None) => Err(Failure::new(Exit::Spec, "the folder has no config.json")),
        }
    }

    /// A dim as a number.
    pub(super) fn dim(&self, name: &str) -> Option<u64> {
        self.dims.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.parse().ok())
    }

    /// Path of the decoder in the model, in front of every node.
    pub(super) fn prefix(&self) -> &str {
        &self.names.prefix
    }

    /// The derived specs over the shipped models.
    fn library(&self, shape: [u64; 2], offset: u64, recipe: &Recipe) -> Library {
        let [batch, seq] = shape;
        let (block, prefix) = (&self.names.model.text, &self.names.prefix);
        let block = block.trim_start_matches("../");
        Library::default()
            .with(spec::MODEL, spec::model(block, prefix, &self.dims, batch, seq, offset))
            .with(spec::TRAIN, spec::train(prefix, recipe))
    }

    /// Compiles the training step at a batch shape and loads the weights.
    ///
    /// # Errors
    /// When a spec is refused or the checkpoint does not fit.
    pub(super) fn trainer(
        &self,
        shape: [u64; 2],
        recipe: &Recipe,
        weights: &Expected,
    ) -> Result<Runner, Failure> {
        let library = self.library(shape, 0, recipe);
        let session = pipeline::session_on(self.device, &library, spec::TRAIN)?;
        Runner::new(session, &self.names, weights)
    }

    /// Compiles the forward alone, positions starting at `offset`, and loads the weights.
    ///
    /// # Errors
    /// When a spec is refused or the checkpoint does not fit.
    pub(super) fn predictor(
        &self,
        shape: [u64; 2],
        offset: u64,
        weights: &Expected,
    ) -> Result<Runner, Failure> {
        let library = self.library(shape, offset, &Recipe::default());
        let session = pipeline::session_on(self.device, &library, spec::MODEL)?;
        Runner::new(session, &self.names, weights)
    }
}

impl Runner {
    fn new(session: Session, names: &NamesSpec, weights: &Expected) -> Result<Self, Failure> {
        let exported = |k: TensorKind| k != TensorKind::State;
        let ours = session.plan().tensors.iter().filter(|t| exported(t.kind));
        let ours: Vec<_> = ours.map(|t| (t.name.clone(), t.shape.clone())).collect();
        let shapes = weights.iter().map(|(n, t)| (n.clone(), t.shape().to_vec())).collect();
        let mapped = hf::map_tensors(names, &ours, &shapes)
            .map_err(|e| Failure::new(Exit::Spec, format!("{e:#}")))?;
        let mut runner = Runner { session, mapped };
        runner.load(weights)?;
        Ok(runner)
    }

    /// Sets every parameter and buffer; optimizer state is zeroed.
    fn load(&mut self, weights: &Expected) -> Result<(), Failure> {
        for m in &self.mapped {
            let mut bytes = Vec::new();
            for name in &m.theirs {
                bytes.extend_from_slice(tensor(weights, name)?.bytes());
            }
            let dtype = tensor(weights, &m.theirs[0])?.dtype();
            let whole =
                HostTensor::from_bytes(dtype, &m.shape, bytes).map_err(pipeline::runtime)?;
            self.session.set_tensor(&m.ours, &whole).map_err(pipeline::runtime)?;
        }
        Ok(())
    }

    /// Runs an entry.
    ///
    /// # Errors
    /// When the runtime refuses it.
    pub(super) fn run(
        &mut self,
        entry: &str,
        feeds: &[(&str, HostTensor)],
    ) -> Result<Fetches, Failure> {
        let feeds: Vec<_> = feeds.iter().map(|(name, value)| (*name, value)).collect();
        self.session.run(entry, &feeds).map_err(pipeline::runtime)
    }

    /// The weights by checkpoint name, as f64.
    ///
    /// # Errors
    /// When the runtime refuses it.
    pub(super) fn weights(&self) -> Result<BTreeMap<String, Vec<f64>>, Failure> {
        let mut out = BTreeMap::new();
        for m in &self.mapped {
            let whole = self.session.tensor(&m.ours).map_err(pipeline::runtime)?;
            out.extend(m.split(&floats(&whole)?));
        }
        Ok(out)
    }

    /// Values of one of our tensors (its gradient, say) by checkpoint name.
    pub(super) fn by_checkpoint_name(&self, ours: &str, values: &[f64]) -> Vec<(String, Vec<f64>)> {
        let mapped = self.mapped.iter().find(|m| m.ours == ours);
        mapped.map(|m| m.split(values)).unwrap_or_default()
    }
}

/// Values of a tensor as f64, whatever its type.
///
/// # Errors
/// When the type has no such reading.
pub(super) fn floats(tensor: &HostTensor) -> Result<Vec<f64>, Failure> {
    match tensor.dtype() {
        DType::i32 => tensor.to_i32().map(|v| v.into_iter().map(f64::from).collect()),
        DType::i1 | DType::f64 | DType::f32 | DType::bf16 | DType::f16 => {
            tensor.to_f32().map(|v| v.into_iter().map(f64::from).collect())
        }
    }
    .map_err(pipeline::runtime)
}
