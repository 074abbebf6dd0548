//! The spec a checkpoint implies: a model and a training step over `models/`, written as RON.
//!
//! # Invariants
//! - What parity checks is compiled from this text by the same road as any other spec; nothing
//!   about the model is decided here beyond its dims.

use super::config::Dims;

/// Root-relative path of the derived model.
pub(super) const MODEL: &str = "parity/model.ron";
/// Root-relative path of the derived training step.
pub(super) const TRAIN: &str = "parity/train.ron";

/// Optimizer settings of a trajectory.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recipe {
    /// Constant learning rate.
    pub lr: f64,
    /// QK-clip threshold.
    pub tau: f64,
    /// Muon momentum; kept as an exponential average, as torch does.
    pub momentum: f64,
    /// Nesterov momentum.
    pub nesterov: bool,
    /// Decay of matrices, embeddings and head.
    pub weight_decay: f64,
    /// Decay of norms.
    pub norm_weight_decay: f64,
    /// AdamW's β₁, β₂ and ε.
    pub adam: [f64; 3],
}

impl Default for Recipe {
    /// What the Kimi-K2 report says, for runs that look at the forward and the gradients alone.
    fn default() -> Self {
        Recipe {
            lr: 2e-4,
            tau: 100.0,
            momentum: 0.95,
            nesterov: true,
            weight_decay: 0.1,
            norm_weight_decay: 0.1,
            adam: [0.9, 0.95, 1e-8],
        }
    }
}

/// The model over a name table's block.
pub(super) fn model(
    block: &str,
    prefix: &str,
    dims: &Dims,
    batch: u64,
    seq: u64,
    offset: u64,
) -> String {
    let mut text = format!(
        "Model(\n    doc: \"Derived from config.json.\",\n    imports: {{ \"Decoder\": \"../{block}\" }},\n    dims: {{\n        \
         \"batch\": {batch},\n        \"seq\": {seq},\n        \"position_offset\": {offset},\n        \"init_std\": 0.02,\n"
    );
    for (name, value) in dims {
        text.push_str(&format!("        \"{name}\": {value},\n"));
    }
    text.push_str(&format!(
        "    }},\n    inputs: {{ \"tokens\": Input([batch, seq], i32) }},\n    \
         nodes: [(\"{prefix}\", Decoder(tokens: \"tokens\"))],\n    \
         outputs: {{ \"logits\": \"{prefix}.logits\" }},\n)\n"
    ));
    text
}

/// The MuonClip step on that model, with everything an oracle file may hold as a metric.
pub(super) fn train(prefix: &str, recipe: &Recipe) -> String {
    let Recipe { lr, tau, momentum, weight_decay, norm_weight_decay, adam, .. } = recipe;
    let nesterov = u8::from(recipe.nesterov);
    let [beta1, beta2, adam_eps] = adam;
    format!(
        r#"Train(
    doc: "Derived from a checkpoint: forward, backward and the optimizer trajectory.",
    imports: {{ "CrossEntropy": "../blocks/cross_entropy.ron", "Optim": "../optim/muonclip.ron" }},
    model: "model.ron",
    inputs: {{ "targets": Input([batch, seq], i32), "step": Input([], f32), "lr": Input([], f32) }},
    nodes: [("ce", CrossEntropy(logits: "logits", targets: "targets"))],
    loss: "ce",
    // Learning rate {lr:?} is fed at each step.
    optimizer: Optim(
        lr: "lr", step: "step", tau: {tau:?}, tau_end: {tau:?},
        momentum: {momentum:?}, dampening: {momentum:?}, nesterov: {nesterov},
        weight_decay: {weight_decay:?}, norm_weight_decay: {norm_weight_decay:?},
        beta1: {beta1:?}, beta2: {beta2:?}, adam_eps: {adam_eps:?},
    ),
    metrics: {{
        "logits": "logits",
        "ce_per_token": "ce.per_token",
        "inv_freq": "{prefix}.rope.frequency",
        "cos": "{prefix}.rope.cos",
        "sin": "{prefix}.rope.sin",
        "final_norm": "{prefix}.norm.y",
        "hidden_out": "{prefix}.layers.*.y",
        "attn_out": "{prefix}.layers.*.attn.y",
        "mlp_out": "{prefix}.layers.*.mlp.y",
        "smax": "{prefix}.layers.*.attn.attn.max_logit",
        "router.logits": "{prefix}.layers.*.mlp.router.logits",
        "router.indices": "{prefix}.layers.*.mlp.router.top.indices",
        "router.weights": "{prefix}.layers.*.mlp.router.weights",
        "load": "{prefix}.layers.*.mlp.load",
        "eligible": "{prefix}.layers.*.mlp.router.eligible",
        "gamma": "optimizer.*.gamma",
        "grad": Grad("{prefix}.*"),
    }},
    run: Run(steps: 50, seed: 1),
)
"#
    )
}
