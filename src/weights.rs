//! Trained weights as a safetensors file, under the names of the spec.
//!
//! # Invariants
//! - Parameters and buffers, never optimizer state; the same weights give the same bytes.

use std::io;
use std::path::Path;

use perilune_plan::TensorKind;
use perilune_runtime::Session;
use perilune_runtime::io::safetensors::{Listed, sort_for_file, write_streamed};

use crate::exit::Failure;
use crate::pipeline::{self, runtime};

/// Writes every parameter and buffer, whole or not at all. On a mesh every rank calls it; rank 0
/// puts the parts together and writes, one tensor after the other, so that no rank holds more than
/// one whole tensor.
///
/// # Errors
/// When a tensor cannot be read or the file cannot be written.
pub fn write(session: &mut Session, path: &Path) -> Result<(), Failure> {
    let mesh = session.plan().mesh.clone();
    let decls = session.plan().tensors.clone();
    let exported = decls.iter().filter(|t| t.kind != TensorKind::State);
    let shapes: Vec<Vec<u64>> = exported
        .clone()
        .map(|t| t.shard.as_ref().map_or_else(|| t.shape.clone(), |s| s.whole(&mesh, &t.shape)))
        .collect();
    let mut listing: Vec<Listed<'_>> = exported
        .zip(&shapes)
        .map(|(t, shape)| Listed { name: &t.name, dtype: t.dtype, shape })
        .collect();
    sort_for_file(&mut listing);
    let mut left = listing.iter().map(|tensor| tensor.name);
    if session.rank() > 0 {
        return left.try_for_each(|name| session.whole_tensor(name).map(drop)).map_err(runtime);
    }
    let mut failed = None;
    let written = write_streamed(path, listing.clone(), &mut |name| {
        left.next();
        let value = session.whole_tensor(name);
        value.map_err(|error| {
            let text = error.to_string();
            failed = Some(runtime(error));
            io::Error::other(text)
        })
    });
    if let Some(failure) = failed {
        return Err(failure);
    }
    // The others wait for the rest even where the file cannot be written.
    left.try_for_each(|name| session.whole_tensor(name).map(drop)).map_err(runtime)?;
    written.map_err(|error| pipeline::io(&error))
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
