//! The mesh of a training step: axes that exist, and extents that its ranks divide.
//!
//! # Invariants
//! - After the check every feed's batch, and every tensor that is cut, has a part for each rank.
//! - Axes of one rank are left out: they cut nothing.

use perilune_plan::{MAX_RANKS, Mesh, MeshAxis};

use super::context::{Cx, shorten};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::Span;
use crate::spec::files::Files;
use crate::spec::read::{Sink, did_you_mean};
use crate::spec::syntax::Name;
use crate::spec::train::TrainSpec;

/// The axes there are, outermost first, and what each is for.
const AXES: [(&str, &str); 2] = [("dp", "data"), ("ep", "experts")];

/// The axes of `--mesh dp=2,ep=2`, with places in a text of their own.
pub(super) fn read(files: &mut Files, sink: &mut Sink, text: &str) -> Vec<(Name, u64)> {
    let source = files.sources.add("--mesh", text.to_owned());
    let mut axes = Vec::new();
    let mut at = 0;
    for part in text.split(',') {
        let span = |from: usize, to: usize| Span {
            source,
            start: (at + from) as u32,
            end: (at + to) as u32,
        };
        let pair = part.split_once('=').and_then(|(n, v)| Some((n, v.parse::<u64>().ok()?)));
        match pair.filter(|(name, ranks)| !name.is_empty() && *ranks > 0) {
            Some((name, ranks)) => {
                axes.push((Name { text: name.to_owned(), span: span(0, name.len()) }, ranks));
            }
            None => {
                let headline = format!("`{}` is no axis with a number of ranks", shorten(part));
                let place = span(0, part.len());
                let error = Diagnostic::error(codes::BAD_SETTING, headline, place, "here");
                sink.push(error.help("write a mesh as `dp=2,ep=4`"));
            }
        }
        at += part.len() + 1;
    }
    axes
}

/// Reports a mesh for a model alone.
pub(super) fn refuse(sink: &mut Sink, axes: Option<&[(Name, u64)]>) {
    let Some((axis, _)) = axes.and_then(|axes| axes.first()) else { return };
    let headline = "a model without a training step has no mesh";
    let error = Diagnostic::error(codes::BAD_SETTING, headline, axis.span, "given here");
    sink.push(error.help("give the `Train(..)` file beside it"));
}

/// The mesh, with everything that it does not divide reported.
pub(super) fn check(cx: &mut Cx, axes: &[(Name, u64)]) -> Mesh {
    let mut mesh = Mesh::default();
    for (name, _) in AXES {
        let named = axes.iter().filter(|(axis, _)| axis.text == name);
        let ranks = named.fold(1u64, |n, (_, ranks)| n.saturating_mul(*ranks));
        if ranks > 1 {
            mesh.axes.push(MeshAxis { name: name.to_owned(), ranks });
        }
    }
    for (axis, _) in axes.iter().filter(|(axis, _)| !AXES.iter().any(|(n, _)| *n == axis.text)) {
        let headline = format!("a mesh has no axis `{}`", shorten(&axis.text));
        let error = Diagnostic::error(codes::UNKNOWN_AXIS, headline, axis.span, "not an axis");
        let known = AXES.iter().map(|(name, _)| *name);
        let error = did_you_mean(error, (&axis.text, axis.span), known);
        cx.sink.push(error);
    }
    if mesh.ranks() > MAX_RANKS {
        let headline = format!("a mesh of {} ranks; at most {MAX_RANKS}", mesh.ranks());
        let place = axes[0].0.span;
        cx.sink.push(Diagnostic::error(codes::BAD_SETTING, headline, place, "here"));
        return Mesh::default();
    }
    check_batch(cx, axes, &mesh);
    check_tensors(cx, axes, &mesh);
    mesh
}

/// Each rank takes as many sequences of every micro-batch.
fn check_batch(cx: &mut Cx, axes: &[(Name, u64)], mesh: &Mesh) {
    let mut reported = Vec::new();
    for (value, span) in cx.feeds.clone() {
        let Some(&batch) = cx.ty(value).shape.first() else { continue };
        if batch.is_multiple_of(mesh.ranks()) || reported.contains(&batch) {
            continue;
        }
        reported.push(batch);
        let headline = format!("a batch of {batch} is not divided by {} ranks", mesh.ranks());
        let label = format!("its leading extent is {batch}");
        let mut error = Diagnostic::error(codes::MESH_DOES_NOT_DIVIDE, headline, span, label);
        if let Some((axis, _)) = axes.first() {
            error = error.label(axis.span, format!("the mesh is {mesh}"));
        }
        let more = batch.next_multiple_of(mesh.ranks()).max(mesh.ranks());
        let help = format!("each rank takes as many sequences of a micro-batch: {more} would do");
        cx.sink.push(error.help(help));
    }
}

/// What is cut over an axis is divided by its ranks.
fn check_tensors(cx: &mut Cx, axes: &[(Name, u64)], mesh: &Mesh) {
    for (tensor, _) in cx.tensors.clone() {
        let mut cuts = 0;
        for (name, dim) in &tensor.shard {
            if !AXES.iter().any(|(known, _)| known == name) {
                let headline = format!("a mesh has no axis `{}`", shorten(name));
                let label = "cut over it";
                let error = Diagnostic::error(codes::UNKNOWN_AXIS, headline, tensor.span, label);
                cx.sink.push(error.help("axes are `dp` (data) and `ep` (experts)"));
                continue;
            }
            let Some(axis) = mesh.axes.iter().find(|axis| axis.name == *name) else { continue };
            let Some(&extent) = tensor.ty.shape.get(*dim as usize) else { continue };
            cuts += 1;
            let divided = extent.is_multiple_of(axis.ranks);
            if divided && cuts == 1 {
                continue;
            }
            let headline = match divided {
                true => format!("`{}` is cut over several axes", shorten(&tensor.name)),
                false => format!("{extent} of dim {dim} are not divided by {} ranks", axis.ranks),
            };
            let label = format!("this is {}", tensor.ty);
            let code = codes::MESH_DOES_NOT_DIVIDE;
            let mut error = Diagnostic::error(code, headline, tensor.span, label);
            if let Some((own, _)) = axes.iter().find(|(own, _)| own.text == *name) {
                error = error.label(own.span, format!("{} ranks along `{name}`", axis.ranks));
            }
            cx.sink.push(error.help("a rank holds equal parts of one dimension"));
        }
    }
}

/// Reports a stage of ZeRO that there is not.
pub(super) fn check_zero(cx: &mut Cx, spec: &TrainSpec) {
    let Some(span) = spec.zero_span.filter(|_| spec.zero > 2) else { return };
    let headline = format!("there is no stage {} of ZeRO", spec.zero);
    let error = Diagnostic::error(codes::BAD_SETTING, headline, span, "0, 1 or 2");
    cx.sink.push(error.help("1 divides optimizer state, 2 gradients as well"));
}

/// Reports slices that a rank cannot add up by itself first: each has 1, 2, 4, .. of them.
pub(super) fn check_slices(cx: &mut Cx, spec: &TrainSpec, mesh: &Mesh) {
    let (slices, ranks) = (spec.reduction_slices, mesh.ranks());
    let Some(span) = spec.reduction_slices_span.filter(|_| slices > 0) else { return };
    if slices.is_multiple_of(ranks) && (slices / ranks).is_power_of_two() {
        return;
    }
    let headline = format!("{slices} slices are not 1, 2, 4, .. for each of {ranks} ranks");
    let code = codes::MESH_DOES_NOT_DIVIDE;
    let error = Diagnostic::error(code, headline, span, format!("the mesh is {mesh}"));
    cx.sink.push(error.help(format!("{} would do", ranks.saturating_mul(4))));
}
