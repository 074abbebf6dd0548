//! Every error code with its explanation, as `perilune explain E0203` shows it.
//!
//! `E01xx` files and syntax, `E02xx` names and forms, `E03xx` ops ([`ops`]),
//! `E04xx` constants and shapes between blocks, `E05xx` training, `E06xx` jobs of many ranks.
//!
//! # Invariants
//! - A code is never reused for another meaning; every code has a broken spec under
//!   `tests/spec/err`, or, from E0601 on, a job that is refused in `tests/distributed` (tested).

use crate::diagnostic::Code;

/// Declares codes, each with its short name and its explanation: there is no code without one.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $short:literal, $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Code = Code($number);)*
        pub(super) const TABLE: &[(Code, &str, &str)] = &[$(($name, $short, $text)),*];
    };
}

pub mod ops;

/// What `explain` shows of a code.
#[derive(Clone, Copy, Debug)]
pub struct Explanation {
    /// The code.
    pub code: Code,
    /// Short name.
    pub name: &'static str,
    /// Cause, a failing spec and its cure.
    pub text: &'static str,
}

/// All codes, ascending.
pub fn all() -> Vec<Explanation> {
    let mut all: Vec<Explanation> = TABLE
        .iter()
        .chain(ops::TABLE)
        .map(|&(code, name, text)| Explanation { code, name, text })
        .collect();
    all.sort_by_key(|e| e.code);
    all
}

/// The explanation of one code: `E0203` or `203`.
pub fn explain(code: &str) -> Option<Explanation> {
    let number: u16 = code.trim_start_matches(['E', 'e']).parse().ok()?;
    all().into_iter().find(|e| e.code == Code(number))
}

codes! {
    /// Not RON.
    SYNTAX = 101, "syntax", "The file is not well-formed RON: a bracket is not closed, a comma is missing, a string does not end.\n\nWrong: `outputs: { \"y\": \"o\" `\nRight: `outputs: { \"y\": \"o\" },`";
    /// A file cannot be read.
    UNREADABLE = 102, "unreadable-file", "A file that the spec names cannot be read: it does not exist, is not UTF-8 or is too large. Paths are relative to the file that names them.\n\nWrong: `imports: { \"RmsNorm\": \"rms_norm.ron\" }` when the file is rmsnorm.ron.\nRight: `imports: { \"RmsNorm\": \"rmsnorm.ron\" }`";
    /// A path leaves the root.
    OUTSIDE_ROOT = 103, "path-outside-root", "A spec may only name files below the model root, so that a downloaded model cannot read anything else. Absolute paths and `..` beyond the root are refused.\n\nWrong: `imports: { \"X\": \"/etc/x.ron\" }`\nRight: `imports: { \"X\": \"../blocks/x.ron\" }`, as long as that stays inside the root.";
    /// Nesting too deep.
    TOO_DEEP = 106, "too-deep", "Brackets nest deeper than 64 levels, or blocks import and call each other deeper than 64. Real specs stay below ten.\n\nWrong: `[[[[…]]]]`\nRight: give inner parts a name or a block of their own.";
    /// Files import each other in a circle.
    IMPORT_CYCLE = 107, "import-cycle", "A file imports itself, directly or through others. Blocks are expanded where they are called, so a cycle would never end.\n\nWrong: a.ron has `imports: { \"B\": \"b.ron\" }` and b.ron has `imports: { \"A\": \"a.ron\" }`.\nRight: move what both need into a third file.";
    /// A file holds another thing than expected.
    WRONG_FILE_KIND = 108, "wrong-file-kind", "A file holds one value, and its place says which: an import is a `Block(..)`, `model:` names a `Model(..)`, `optimizer:` calls an imported `Optimizer(..)`.\n\nWrong: `model: \"train.ron\"`\nRight: `model: \"model.ron\"`";
    /// Too many or too large files.
    TOO_MUCH_TEXT = 109, "too-much-text", "A spec may have 1,000 files of at most 4 MiB each. A spec that large is generated; let `Stack` and `Repeat` do the repeating.";

    /// Unknown field.
    UNKNOWN_FIELD = 201, "unknown-field", "A form has no field of this name.\n\nWrong: `Group(name: \"muon\", matches: [\"*\"], update: ..)`\nRight: `Group(name: \"muon\", match: [\"*\"], update: ..)`";
    /// Missing field.
    MISSING_FIELD = 202, "missing-field", "A form lacks a field that it must have.\n\nWrong: `Train(model: \"model.ron\", loss: \"loss\")`\nRight: `Train(model: \"model.ron\", loss: \"loss\", optimizer: AdamW(lr: \"lr\"))`";
    /// Key given twice.
    DUPLICATE_KEY = 203, "duplicate-key", "A field or map key is given twice; one of the two would be ignored.\n\nWrong: `dims: { \"seq\": 64, \"seq\": 128 }`\nRight: `dims: { \"seq\": 128 }`";
    /// Wrong kind of value.
    WRONG_KIND = 204, "wrong-kind", "Another kind of value is expected here: a list and not a string, a call and not a number.\n\nWrong: `outputs: { \"y\": o }`\nRight: `outputs: { \"y\": \"o\" }` (names of nodes stand in quotes, names of dims do not).";
    /// Unknown op or block.
    UNKNOWN_OP = 205, "unknown-op", "A node calls something that is neither an op nor imported by this file.\n\nWrong: `(\"y\", RmsNorm(x: \"x\"))` without an import.\nRight: `imports: { \"RmsNorm\": \"rmsnorm.ron\" }` as well.";
    /// Unknown name.
    UNKNOWN_NAME = 206, "unknown-name", "No node, input, parameter, buffer or state of this block has this name. Names of other blocks are not visible; pass them as inputs.\n\nWrong: `Map(\"gate * upp\")`\nRight: `Map(\"gate * up\")`";
    /// Used before it is defined.
    USED_BEFORE_DEFINED = 207, "used-before-defined", "A node uses one that stands further down. Nodes are read in order, so a cycle cannot be written.\n\nWrong: `(\"y\", Map(\"h * 2\")), (\"h\", Map(\"x + 1\"))`\nRight: `(\"h\", Map(\"x + 1\")), (\"y\", Map(\"h * 2\"))`";
    /// Declared twice.
    DUPLICATE_NAME = 208, "duplicate-name", "Two things of one block have the same name. Nodes, inputs, parameters and constants share one scope, since expressions use them alike.\n\nWrong: `inputs: { \"x\": [n] }` and `(\"x\", Map(\"x + 1\"))`\nRight: `(\"y\", Map(\"x + 1\"))`";
    /// Unknown constant.
    UNKNOWN_CONSTANT = 209, "unknown-constant", "No argument, default, let or dim of this block has this name. A block sees its own constants only; list what comes from the caller in `args`.\n\nWrong: `Param([n_head, d_model])`\nRight: `Param([n_heads, d_model])` with `args: [n_heads]`";
    /// Argument not given.
    MISSING_ARG = 210, "missing-argument", "A block needs a constant that the call does not give and that no caller has under this name.\n\nWrong: `(\"mlp\", SwiGlu(x: \"h\"))` where nobody defines `d_ff`.\nRight: `(\"mlp\", SwiGlu(x: \"h\", d_ff: 1024))`";
    /// Input not given.
    MISSING_INPUT = 211, "missing-input", "A call does not give one of the block's inputs.\n\nWrong: `(\"q\", Rope(x: \"q_pe\"))`\nRight: `(\"q\", Rope(x: \"q_pe\", cos: \"cos\", sin: \"sin\"))`";
    /// No such output.
    UNKNOWN_OUTPUT = 212, "unknown-output", "The node exists but has no result of this name.\n\nWrong: `\"top.index\"`\nRight: `\"top.indices\"`";
    /// Nothing uses it.
    UNUSED = 213, "unused", "Nothing uses this node, input or parameter (a warning). It is left out of the program.\n\nWrong: `(\"norm\", RmsNorm(x: \"x\"))` and then `Einsum(.., [\"x\", \"w\"])`.\nRight: use `\"norm\"`, or remove the node.";
    /// Unknown enum case.
    UNKNOWN_CASE = 214, "unknown-case", "One of a few words is expected here.\n\nWrong: `init: Zero`\nRight: `init: Zeros`";
    /// Not a name.
    BAD_NAME = 215, "bad-name", "Names are made of letters, digits and `_` and start with a letter; names of blocks start with a capital, dots separate paths.\n\nWrong: `(\"q-heads\", Reshape(..))`\nRight: `(\"q_heads\", Reshape(..))`";

    /// Not a whole number.
    NOT_AN_EXTENT = 401, "not-an-extent", "An extent or count must be a whole number from 0 to 2^40.\n\nWrong: `[\"d_model / 3\"]` with d_model = 256.\nRight: a d_model that 3 divides, or `\"floor(d_model / 3)\"`.";
    /// Tensor too large.
    TENSOR_TOO_LARGE = 402, "tensor-too-large", "A tensor would have more than 2^48 elements. Check the dims it is made of.\n\nWrong: `Param([vocab, vocab])` with vocab = 100000000.\nRight: `Param([vocab, d_model])`";
    /// Shape of an input.
    INPUT_SHAPE = 403, "input-shape", "What a call passes does not have the shape that the block declares: another number of dims, or an extent that contradicts an argument or another input.\n\nWrong: `RmsNorm(x: \"x\", weight: \"w\")` with `\"x\": [n, dim], \"w\": [dim]`, x f32[4, 8] and w f32[16].\nRight: a `w` with 8 elements.";
    /// Element type of an input.
    INPUT_DTYPE = 404, "input-dtype", "What a call passes does not have the element type that the block declares. Inputs are f32 unless declared `Input([..], i32)`.\n\nWrong: `CrossEntropy(logits: \"logits\", targets: \"lse\")`\nRight: `CrossEntropy(logits: \"logits\", targets: \"targets\")`";
    /// Bad constant expression.
    BAD_CONSTANT = 405, "bad-constant", "A constant expression cannot be evaluated: it calls an unknown function, indexes a tensor, is not a number, or uses a list as a number.\n\nWrong: `lets: { \"share\": \"used / total\" }` with both 0.\nRight: `lets: { \"share\": \"used / max(total, 1)\" }`";
    /// Spec too large.
    TOO_MANY_NODES = 406, "too-many-nodes", "The spec unrolls to more than 200,000 nodes, or one `Stack` or `Repeat` to more than 10,000 layers.\n\nWrong: `Repeat(count: 1000000, ..)`\nRight: fewer iterations.";
    /// Loop-carried value changes its type.
    CARRY_MISMATCH = 407, "carry-mismatch", "A value carried from layer to layer must keep its shape and dtype, and each layer must give it back under the same name.\n\nWrong: a `Stack` with `carry: { \"x\": \"embedded\" }` over a block whose outputs are `{ \"y\": .. }`.\nRight: `outputs: { \"x\": .. }`";
    /// A dim that cannot be set.
    UNKNOWN_SETTING = 408, "unknown-setting", "`set` and `--set` change dims that the model declares.\n\nWrong: `set: { \"batch_size\": 8 }`\nRight: `set: { \"batch\": 8 }`";
    /// Update of something else.
    BAD_UPDATE = 409, "bad-update", "`updates` gives new values to buffers and state of the same block; the new value has the same shape and dtype.\n\nWrong: `updates: { \"bias\": \"load\" }` with load i32[8].\nRight: `updates: { \"bias\": \"bias_new\" }` with bias_new f32[8].";

    /// Loss is no scalar.
    LOSS_NOT_SCALAR = 501, "loss-not-scalar", "The loss is one f32 number.\n\nWrong: `loss: \"per_token\"`\nRight: `(\"loss\", Reduce(Mean, \"per_token[b s]\", over: \"b s\"))` and `loss: \"loss\"`";
    /// No group takes a parameter.
    NO_GROUP = 502, "parameter-without-group", "No group of the optimizer matches this parameter, so nothing would train it.\n\nWrong: `groups: [Group(name: \"muon\", ndim: [2, 3], update: ..)]` for a model with norms.\nRight: a last `Group(name: \"rest\", update: ..)` without conditions.";
    /// A glob matches nothing.
    EMPTY_MATCH = 503, "empty-match", "A pattern matches no parameter or node. `*` stands for any text, dots included; everything else is literal.\n\nWrong: `match: [\"embeddings\"]`\nRight: `match: [\"*embed_tokens\"]`";
    /// No such instance.
    NO_INSTANCE = 504, "no-instance", "`ForEach` names a block that the model does not use, or a parameter that an instance of it does not have.\n\nWrong: `ForEach(instance: \"Mla\", ..)` over a model without `mla.ron`.\nRight: an optimizer without the rule, as `muon.ron`.";
    /// New parameter value of another type.
    UPDATE_TYPE = 505, "update-type", "An update rule gives the new parameter as its output `w`, of the parameter's own shape and dtype; a rule after it gives it under the name of the input.\n\nWrong: `outputs: { \"w\": \"norm\" }` with norm f32[].\nRight: `outputs: { \"w\": \"w_new\" }`";
    /// Setting out of range.
    BAD_SETTING = 506, "bad-setting", "A setting of the train step is out of range.\n\nWrong: `accumulate: 0`\nRight: `accumulate: 1`";
    /// No gradient reaches a parameter.
    NO_GRADIENT = 507, "no-gradient", "The loss does not depend on this parameter, so it has no gradient (a warning); it keeps its value.\n\nWrong: a parameter that only feeds `TopK` indices.\nRight: a buffer, or a path from the parameter to the loss.";
    /// A metric under a name that is taken.
    RESERVED_METRIC = 508, "reserved-metric", "A step always gives `loss`, and `grad_norm` where something asks for it; a metric of the same name could not be told from it.\n\nWrong: `metrics: { \"loss\": \"ce\" }`\nRight: `metrics: { \"ce\": \"ce\" }`; the loss is recorded in any case.";
    /// No such mesh axis.
    UNKNOWN_AXIS = 509, "unknown-axis", "A mesh has the axes `dp` (ranks that take different parts of the batch) and `ep` (ranks that hold different experts); tensors are cut over these.\n\nWrong: `mesh: Mesh({ \"data\": 4 })`\nRight: `mesh: Mesh({ \"dp\": 4 })`";
    /// The mesh does not divide something.
    MESH_DOES_NOT_DIVIDE = 510, "mesh-does-not-divide", "Every rank of a mesh takes as many sequences of each micro-batch and holds as many experts as any other, so `dp · ep` divides the batch and `ep` the number of experts. A tensor is cut over one axis.\n\nWrong: `mesh: Mesh({ \"dp\": 2, \"ep\": 2 })` with batch = 6.\nRight: batch = 8.";
    /// What launchers set makes no sense together.
    LAUNCHER_VARIABLES = 601, "launcher-variables", "The variables that tell a process its place in a job (mpirun's OMPI_COMM_WORLD_RANK, torchrun's RANK, srun's SLURM_PROCID, and the number of ranks beside each) contradict each other, are there by half, are no numbers, or name a launcher that nothing of this build connects. Going on would let a job fall apart into runs of one rank that nobody notices.\n\nWrong: `WORLD_SIZE=2 perilune train …`, without RANK.\nRight: start the job with one launcher, and unset what another one left: `env -u WORLD_SIZE perilune train …`.";
    /// A rendezvous that is not reached, or to which not all ranks come.
    RENDEZVOUS_UNREACHABLE = 602, "rendezvous-unreachable", "A rank does not reach the rendezvous of its job within a collective's deadline, or another rank does not come to it; that one is named. Look whether the machine that serves it can be reached at that port, and whether every rank was started.\n\nWrong: `PERILUNE_RENDEZVOUS=one:29400`, where no rank 0 runs on `one`, or a firewall is before the port.\nRight: the name of rank 0's machine and an open port; or leave it out, and rank 0 chooses.";
    /// A rendezvous that does not let a rank in.
    RENDEZVOUS_REFUSED = 603, "rendezvous-refused", "A rank reached the rendezvous, which does not let it in: it has another token, is of another version of Perilune, thinks of another number of ranks, or its place is taken. It is not of this job, or it was started in another way than the others.\n\nWrong: `PERILUNE_TOKEN` drawn on each machine.\nRight: drawn once and given to all ranks: `mpirun -x PERILUNE_TOKEN …`.";
    /// Ranks that do not run the same thing.
    RANKS_DIFFER = 604, "ranks-differ", "All ranks of a job run one plan on one corpus with the same settings. They compare what they have before the first step, and those that differ from most are named.\n\nWrong: a spec, a text or a program that was changed on one machine only; `--seed` or `--set` for some of the ranks.\nRight: the same command with the same files on all machines.";
    /// A mesh that is not as large as the job.
    MESH_AND_JOB = 605, "mesh-and-job", "The mesh of the step says how many ranks it is for, and the job has another number.\n\nWrong: `perilune launch --ranks 2 -- train … --mesh dp=4`\nRight: `perilune launch --ranks 4 -- train … --mesh dp=4`";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_explained() {
        let all = all();
        for pair in all.windows(2) {
            assert!(pair[0].code < pair[1].code, "{} stands twice", pair[0].code);
        }
        for e in &all {
            assert!(e.text.len() > 60, "{} is hardly explained", e.code);
        }
        assert!(explain("E0203").is_some_and(|e| e.name == "duplicate-key"));
        assert!(explain("nonsense").is_none());
    }
}
