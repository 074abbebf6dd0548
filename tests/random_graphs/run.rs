//! Compiles a graph with and without fusion and runs it on the CPU.

use perilune_compiler::compile::emit;
use perilune_compiler::graph::Graph;
use perilune_compiler::import::import;
use perilune_compiler::lower::Target;
use perilune_compiler::program::{ArgKind, Decision, ResultTarget};
use perilune_compiler::stages::{self, STAGES};
use perilune_compiler::tensor::Tensor;
use perilune_compiler::types::{DType, Type};
use perilune_plan::Plan;
use perilune_runtime::{HostTensor, Options, Session};

/// The plan of a graph through every pass, or through every pass but fusion.
///
/// # Errors
/// When lowering fails.
pub(crate) fn compile(graph: &Graph, fused: bool) -> Result<(Plan, Vec<Decision>), String> {
    let mut program = import("random", &[graph]);
    for (at, stage) in STAGES.iter().enumerate() {
        if fused || !["fuse", "epilogue"].contains(&stage.name) {
            stages::advance(&mut program, at.saturating_sub(1), at);
        }
    }
    let calls = program.entries.iter().flat_map(|e| &e.calls);
    let decisions = calls.flat_map(|c| c.decisions.clone()).collect();
    let (plan, _) = emit(&program, Target::Cpu).map_err(|e| format!("{e}\n{}", e.reproducer))?;
    Ok((plan, decisions))
}

/// The outputs of a plan's only entry, in the graph's order.
///
/// # Errors
/// When the plan cannot be bound or a step fails.
pub(crate) fn run(plan: Plan, graph: &Graph, inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let options = Options { threads: Some(2), poison: true, ..Options::default() };
    let mut session = Session::new(plan, options).map_err(|e| format!("{e:?}"))?;
    let mut feeds = Vec::new();
    for (input, tensor) in graph.inputs.iter().zip(inputs) {
        let value = to_host(graph.ty(input.value), tensor);
        match input.kind {
            ArgKind::Feed => feeds.push((input.name.as_str(), value)),
            _ => session.set_tensor(&input.name, &value).expect("a persistent tensor"),
        }
    }
    let feeds: Vec<(&str, &HostTensor)> = feeds.iter().map(|(n, v)| (*n, v)).collect();
    let fetches = session.run(&graph.name, &feeds).map_err(|e| format!("{e:?}"))?;
    let read = |target: &ResultTarget| match target {
        ResultTarget::Fetch(name) => from_host(fetches.get(name).expect("fetched")),
        ResultTarget::Update(name) => from_host(&session.tensor(name).expect("persistent")),
    };
    Ok(graph.outputs.iter().map(|(_, target)| read(target)).collect())
}

fn to_host(ty: &Type, tensor: &Tensor) -> HostTensor {
    let floats: Vec<f32> = tensor.data.iter().map(|x| *x as f32).collect();
    let host = match ty.dtype {
        DType::i32 => {
            let integers: Vec<i32> = tensor.data.iter().map(|x| *x as i32).collect();
            HostTensor::from_i32(&ty.shape, &integers)
        }
        dtype => HostTensor::from_f32(&ty.shape, &floats).and_then(|t| t.cast(dtype)),
    };
    host.expect("as many elements as the shape says")
}

fn from_host(value: &HostTensor) -> Tensor {
    let data = match value.dtype() {
        DType::i32 => value.to_i32().expect("i32").into_iter().map(f64::from).collect(),
        _ => value.to_f32().expect("floats").into_iter().map(f64::from).collect(),
    };
    Tensor { shape: value.shape().to_vec(), data }
}
