//! Trained weights as a safetensors file, under the names of the spec.
//!
//! # Invariants
//! - Parameters and buffers, never optimizer state; the same weights give the same bytes.

use perilune_plan::{DType, TensorKind};
use perilune_runtime::{HostTensor, Session};
use safetensors::tensor::{Dtype, TensorView};

use crate::exit::Failure;
use crate::pipeline::runtime;

/// The bytes of a safetensors file with every parameter and buffer.
///
/// # Errors
/// When a tensor cannot be read or written down.
pub fn safetensors(session: &Session) -> Result<Vec<u8>, Failure> {
    let exported = session.plan().tensors.iter().filter(|t| t.kind != TensorKind::State);
    let values: Result<Vec<(String, HostTensor)>, Failure> = exported
        .map(|decl| Ok((decl.name.clone(), session.tensor(&decl.name).map_err(runtime)?)))
        .collect();
    let values = values?;
    let views: Result<Vec<(&str, TensorView<'_>)>, Failure> = values
        .iter()
        .map(|(name, value)| {
            let shape = value.shape().iter().map(|&extent| extent as usize).collect();
            let view = TensorView::new(file_dtype(value.dtype()), shape, value.bytes());
            Ok((name.as_str(), view.map_err(|error| internal(name, &error))?))
        })
        .collect();
    safetensors::serialize(views?, None).map_err(|error| internal("weights", &error))
}

fn internal(name: &str, error: &dyn std::fmt::Display) -> Failure {
    Failure::internal(format!("`{name}` cannot be written: {error}"))
}

fn file_dtype(dtype: DType) -> Dtype {
    match dtype {
        DType::f64 => Dtype::F64,
        DType::f32 => Dtype::F32,
        DType::bf16 => Dtype::BF16,
        DType::f16 => Dtype::F16,
        DType::i32 => Dtype::I32,
        DType::i1 => Dtype::BOOL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use perilune_plan::{FORMAT_VERSION, Plan, TensorDecl};
    use perilune_runtime::Options;

    #[test]
    fn weights_are_written_and_optimizer_state_is_not() {
        let decl = |name: &str, kind| TensorDecl {
            name: name.into(),
            dtype: DType::f32,
            shape: vec![2],
            kind,
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
            tensors,
            kernels: Vec::new(),
            entries: Vec::new(),
            nodes: Vec::new(),
        };
        let mut session = Session::new(plan, Options::default()).expect("a plan without entries");
        let value = HostTensor::from_f32(&[2], &[1.5, -2.0]).expect("two numbers");
        session.set_tensor("w", &value).expect("set");
        let bytes = safetensors(&session).expect("written");
        let read = safetensors::SafeTensors::deserialize(&bytes).expect("read");
        let mut names = read.names();
        names.sort_unstable();
        assert_eq!(names, ["bias", "w"]);
        assert_eq!(read.tensor("w").expect("w").data(), value.bytes());
    }
}
