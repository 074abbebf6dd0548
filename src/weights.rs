//! Trained weights as a safetensors file, under the names of the spec.
//!
//! # Invariants
//! - Parameters and buffers, never optimizer state; the same weights give the same bytes.

use std::path::Path;

use perilune_plan::TensorKind;
use perilune_runtime::Session;
use perilune_runtime::io::safetensors;

use crate::exit::Failure;
use crate::pipeline::{io, runtime};

/// Writes every parameter and buffer, whole or not at all. On a mesh every rank calls it; rank 0
/// puts the parts together and writes.
///
/// # Errors
/// When a tensor cannot be read or the file cannot be written.
pub fn write(session: &mut Session, path: &Path) -> Result<(), Failure> {
    let exported = session.plan().tensors.iter().filter(|t| t.kind != TensorKind::State);
    let names: Vec<String> = exported.map(|decl| decl.name.clone()).collect();
    let mut values = Vec::new();
    for name in names {
        let value = session.whole_tensor(&name).map_err(runtime)?;
        // One after the other: no other rank holds more than one whole tensor.
        if session.rank() == 0 {
            values.push((name, value));
        }
    }
    if session.rank() > 0 {
        return Ok(());
    }
    let tensors = values.iter().map(|(name, value)| (name.as_str(), value));
    safetensors::write(path, tensors, None).map_err(|error| io(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_plan::{DType, FORMAT_VERSION, Mesh, Plan, TensorDecl};
    use perilune_runtime::io::weights::Weights;
    use perilune_runtime::{HostTensor, Options};

    #[test]
    fn weights_are_written_and_optimizer_state_is_not() {
        let decl = |name: &str, kind| TensorDecl {
            name: name.into(),
            dtype: DType::f32,
            shape: vec![2],
            kind,
            shard: None,
            owner: None,
        };
        let tensors = vec![
            decl("w", TensorKind::Param),
            decl("bias", TensorKind::Buffer),
            decl("w/momentum", TensorKind::State),
        ];
        let plan = Plan {
            format: FORMAT_VERSION,
            name: "weights".into(),
            target: "cpu".into(),
            mesh: Mesh::default(),
            machine: None,
            tensors,
            kernels: Vec::new(),
            entries: Vec::new(),
            nodes: Vec::new(),
        };
        let mut session = Session::new(plan, Options::default()).expect("a plan without entries");
        let value = HostTensor::from_f32(&[2], &[1.5, -2.0]).expect("two numbers");
        session.set_tensor("w", &value).expect("set");
        let folder = tempfile::tempdir().expect("temp dir");
        let path = folder.path().join("weights.safetensors");
        write(&mut session, &path).expect("written");
        let read = Weights::open(&path).expect("read");
        assert_eq!(read.names().collect::<Vec<_>>(), ["bias", "w"]);
        assert_eq!(read.read("w").expect("w").bytes(), value.bytes());
    }
}
