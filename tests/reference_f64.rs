//! The first rung of the ladder: k2-nano by the reference interpreter, in f64, against float64
//! values made with other people's code (`tests/golden/README.md`). No kernel is compiled.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use perilune::library::Library;
use perilune_compiler::autodiff;
use perilune_compiler::elaborate::{load_names, load_train};
use perilune_compiler::graph::Graph;
use perilune_compiler::interpret;
use perilune_compiler::ops::Value;
use perilune_compiler::program::{ArgKind, ResultTarget};
use perilune_compiler::source::Loader;
use perilune_compiler::spec::names::TensorName;
use perilune_compiler::tensor::Tensor;
use safetensors::{Dtype, SafeTensors};

/// Relative to the size of the tensor; sums of a few thousand f64 terms in another order.
const BOUND: f64 = 1e-9;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(file: &str) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(root("tests/golden/k2-nano").join(file)).expect("committed");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let load = |name: &str| {
        let view = tensors.tensor(name).expect("listed");
        let width = view.data().len() / view.shape().iter().product::<usize>().max(1);
        let element = |c: &[u8]| match view.dtype() {
            Dtype::F64 => f64::from_le_bytes(c.try_into().expect("8 bytes")),
            Dtype::F32 => f64::from(f32::from_le_bytes(c.try_into().expect("4 bytes"))),
            Dtype::I64 => i64::from_le_bytes(c.try_into().expect("8 bytes")) as f64,
            other => panic!("{name} is {other:?}"),
        };
        let data = view.data().chunks(width).map(element).collect();
        Tensor { shape: view.shape().iter().map(|d| *d as u64).collect(), data }
    };
    tensors.names().iter().map(|name| (name.to_string(), load(name))).collect()
}

/// The checkpoint's tensor of a path, experts stacked.
fn find(rules: &[TensorName], file: &BTreeMap<String, Tensor>, path: &str) -> Tensor {
    let layer = path.split('.').find(|p| p.parse::<u32>().is_ok()).unwrap_or("");
    let named = rules.iter().filter(|r| r.path.replace("{i}", layer) == path);
    for rule in named {
        let name = rule.name.replace("{i}", layer);
        if let Some(tensor) = file.get(&name) {
            return tensor.clone();
        }
        let experts: Vec<&Tensor> =
            (0..).map_while(|e| file.get(&name.replace("{e}", &format!("{e}")))).collect();
        if name.contains("{e}") && !experts.is_empty() {
            let mut shape = vec![experts.len() as u64];
            shape.extend(&experts[0].shape);
            return Tensor { shape, data: experts.iter().flat_map(|t| t.data.clone()).collect() };
        }
    }
    panic!("no tensor for `{path}`");
}

fn relative(got: &Tensor, want: &Tensor) -> f64 {
    assert_eq!(got.shape, want.shape);
    let norm = |t: &mut dyn Iterator<Item = f64>| t.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.data.iter().zip(&want.data).map(|(x, y)| x - y));
    difference / norm(&mut want.data.iter().copied()).max(1e-30)
}

fn inputs(graph: &Graph, rules: &[TensorName]) -> Vec<Tensor> {
    let (weights, batch) = (read("model.safetensors"), read("inputs.safetensors"));
    let tokens = &batch["input_ids"];
    let seq = tokens.shape[1] as usize;
    let next = |(at, _): (usize, &f64)| {
        if at % seq == seq - 1 { -1.0 } else { batch["labels"].data[at + 1] }
    };
    let targets = Tensor {
        shape: tokens.shape.clone(),
        data: tokens.data.iter().enumerate().map(next).collect(),
    };
    let of = |input: &perilune_compiler::graph::Input| match (input.kind, input.name.as_str()) {
        (ArgKind::Feed, "tokens") => tokens.clone(),
        (ArgKind::Feed, "targets") => targets.clone(),
        (ArgKind::Feed, _) => Tensor::full(&graph.ty(input.value).shape, 1.0),
        (_, name) => find(rules, &weights, name.strip_prefix("model.").unwrap_or(name)),
    };
    graph.inputs.iter().map(of).collect()
}

#[test]
fn nano_in_f64_gives_the_published_loss_logits_and_gradients() {
    // The models round rotary frequencies to f32 as trained models do; the float64 values do not.
    let table = "blocks/rope_table.ron";
    let shipped = Library::default().load(table).expect("shipped");
    let exact: Vec<String> = shipped
        .lines()
        .map(|l| if l.contains("pow(") { l.replace("f32(", "(") } else { l.to_owned() })
        .collect();
    let loader = Library::default().with(table, exact.join("\n"));
    let (spec, told, _) = load_train(&loader, "k2-nano/train.ron", &[]);
    let spec = spec.unwrap_or_else(|| panic!("{:?}", told.list()));
    let (names, _, _) = load_names(&loader, "hf/deepseek_v3.ron");
    let names = names.expect("a name table");

    let mut graph = spec.eval.expect("a train spec has one");
    let find_value = |path: &str| -> Value {
        let node = graph.nodes.values().find(|n| n.origin.path == path);
        node.unwrap_or_else(|| panic!("no node `{path}` in\n{graph}")).results[0]
    };
    let (loss, logits) = (find_value("ce.loss"), find_value("model.logits"));
    let params: Vec<(String, Value)> = graph
        .inputs
        .iter()
        .filter(|i| i.kind == ArgKind::Param)
        .map(|i| (i.name.clone(), i.value))
        .collect();
    let wrt: Vec<Value> = params.iter().map(|(_, v)| *v).collect();
    let grads = autodiff::differentiate(&mut graph, loss, &wrt);
    graph.outputs.clear();
    for value in [loss, logits].iter().chain(&grads) {
        graph.output(*value, ResultTarget::Fetch(String::new()));
    }
    let graph = graph.cleaned();
    graph.verify().expect("verifies");
    let got = interpret::outputs(&graph, &inputs(&graph, &names.tensors));

    let truth = read("truth64.safetensors");
    assert!((got[0].data[0] - truth["loss"].data[0]).abs() < BOUND, "loss {}", got[0].data[0]);
    assert!(relative(&got[1], &truth["logits"]) < BOUND, "{}", relative(&got[1], &truth["logits"]));
    let expected = read("grads64.safetensors");
    for ((name, _), grad) in params.iter().zip(&got[2..]) {
        let path = name.strip_prefix("model.").unwrap_or(name);
        let error = relative(grad, &find(&names.tensors, &expected, path));
        assert!(error < BOUND, "gradient of {name} is off by {error:e}");
    }
    assert!(params.len() > 20, "the model has its parameters");
}
