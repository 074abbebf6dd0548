use perilune::library::Library;
use perilune_compiler::{compile::compile, elaborate, lower::Target};
use perilune_runtime::{HostTensor, Options, Session};
#[test]
fn road() {
    let name = std::env::var("SPEC").unwrap_or("k2-nano/train.ron".into());
    let t = std::time::Instant::now();
    let (e, d, _) = elaborate::load_train(&Library::default(), &name, &[]);
    for x in d.list() { eprintln!("{:?}", x); }
    let e = e.expect("elaborated");
    eprintln!("elaborated in {:?}: nodes {:?}", t.elapsed(), e.train_step.as_ref().map(|g| g.nodes.len()));
    let t = std::time::Instant::now();
    let c = compile(&e, Target::Cpu).expect("compiles");
    eprintln!("compiled in {:?}; kernels {} steps {:?}", t.elapsed(), c.plan.kernels.len(), c.plan.entries.iter().map(|e| (e.name.clone(), e.steps.len(), e.arena_bytes, e.feeds.iter().map(|f| format!("{}{:?}", f.name, f.shape)).collect::<Vec<_>>())).collect::<Vec<_>>());
    let mut h = std::collections::BTreeMap::new();
    for d in &c.decisions { *h.entry((d.entry.clone(), format!("{:?}", d.rule), d.reason.code())).or_insert(0) += 1; }
    eprintln!("{h:?}");
    if std::env::var("RUN").is_err() { return; }
    let mut s = Session::new(c.plan, Options::default()).expect("session");
    s.run("init", &[("seed", &HostTensor::scalar_i32(1))]).expect("init");
    let shape = s.plan().entries.iter().find(|e| e.name == "train_step").unwrap().feeds.iter().find(|f| f.name == "tokens").unwrap().shape.clone();
    let n = shape.iter().product::<u64>() as i32;
    let toks = HostTensor::from_i32(&shape, &(0..n).map(|i| (i * 7919 % 61)).collect::<Vec<_>>()).unwrap();
    let targets = HostTensor::from_i32(&shape, &(0..n).map(|i| ((i + 1) * 7919 % 61)).collect::<Vec<_>>()).unwrap();
    for step in 1..=8 {
        let t = std::time::Instant::now();
        let f = s.run("train_step", &[("tokens", &toks), ("targets", &targets), ("step", &HostTensor::scalar_f32(step as f32))]).expect("step");
        let dt = t.elapsed();
        eprint!("{step} {dt:?}: ");
        for (n, t) in f.iter().take(6) { if let Ok(v) = t.to_f32() { eprint!("{n} {:?} ", &v[..v.len().min(2)]); } }
        eprintln!();
    }
}
