//! Checks of a collective: what is sent and received fits, and nothing is read where it is written.
//!
//! # Invariants
//! - Counts are data: that they fit the rows is checked when the step runs.

use super::{Check, StepCx, buffer, bytes, overlap, touched};
use crate::{Buffer, Collective, CollectiveKind, DType, Epilogue, Launch, StepOp};

impl StepCx<'_> {
    /// Checks a collective.
    pub(super) fn collective(&self, c: &Collective) -> Check {
        if !self.plan.mesh.has(&c.axes) {
            return Err("a group along axes that the mesh lacks".to_owned());
        }
        let find = |list: &[u32]| -> Result<Vec<&Buffer>, String> {
            list.iter().map(|n| buffer(self.entry, *n)).collect()
        };
        let (send, receive) = (find(&c.send)?, find(&c.receive)?);
        c.receive.iter().try_for_each(|n| self.writable(*n))?;
        let ranks = self.plan.mesh.group_size(&c.axes);
        let fits = match c.kind {
            CollectiveKind::AllReduce(_)
            | CollectiveKind::Reduce(_)
            | CollectiveKind::Broadcast => {
                let one = |(a, b): (&&Buffer, &&Buffer)| {
                    let moved = c.kind == CollectiveKind::Broadcast;
                    let summed = !matches!(a.dtype, DType::f16 | DType::i1);
                    (moved || summed && a.dtype == send[0].dtype)
                        && (a.dtype, a.elems) == (b.dtype, b.elems)
                };
                send.len() == receive.len() && send.iter().zip(&receive).all(one)
            }
            CollectiveKind::AllGather { outer } => match (&send[..], &receive[..]) {
                ([part], [all]) => {
                    let whole = part.elems.checked_mul(ranks);
                    let rows = outer > 0 && part.elems.is_multiple_of(outer);
                    rows && part.dtype == all.dtype && whole == Some(all.elems)
                }
                _ => false,
            },
            CollectiveKind::ExchangeCounts => match (&send[..], &receive[..]) {
                ([from], [to]) => {
                    counts(from, ranks) && counts(to, ranks) && from.elems == to.elems
                }
                _ => false,
            },
            CollectiveKind::DispatchTokens { row, per_token } => match (&send[..], &receive[..]) {
                ([tokens, order, sent, received], [to]) => {
                    let whole = |b: &Buffer| row > 0 && b.elems.is_multiple_of(row);
                    let equal = sent.elems == received.elems && tokens.dtype == to.dtype;
                    let slots =
                        (tokens.elems.checked_div(row)).and_then(|t| t.checked_mul(per_token));
                    let order = order.dtype == DType::i32 && slots == Some(order.elems);
                    equal
                        && order
                        && counts(sent, ranks)
                        && counts(received, ranks)
                        && whole(tokens)
                        && whole(to)
                }
                _ => false,
            },
            CollectiveKind::Dispatch { row } | CollectiveKind::Combine { row } => {
                match (&send[..], &receive[..]) {
                    ([rows, sent, received], [to]) => {
                        let whole = |b: &Buffer| row > 0 && b.elems.is_multiple_of(row);
                        let equal = sent.elems == received.elems && rows.dtype == to.dtype;
                        equal
                            && counts(sent, ranks)
                            && counts(received, ranks)
                            && whole(rows)
                            && whole(to)
                    }
                    _ => false,
                }
            }
        };
        let rooted = matches!(c.kind, CollectiveKind::Reduce(_) | CollectiveKind::Broadcast);
        let roots = if rooted { send.len() } else { 0 };
        if c.roots.len() != roots || c.roots.iter().any(|root| *root >= ranks) {
            return Err(format!("the roots {:?} of {} values", c.roots, send.len()));
        }
        if !fits {
            return Err(format!("what `{}` sends and receives does not fit", c.kind.name()));
        }
        self.apart(c)
    }

    /// Whether the steps beside which a collective runs leave alone what it exchanges.
    pub(super) fn in_flight(&self, at: usize, c: &Collective) -> Check {
        let Some(until) = c.until.map(|step| step as usize) else { return Ok(()) };
        let beside = self.entry.steps.get(at + 1..until);
        let beside = beside.ok_or_else(|| format!("a collective that ends before step {until}"))?;
        let place = |n: &u32| buffer(self.entry, *n).map(bytes);
        let receive = c.receive.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        let send = c.send.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        for (i, step) in beside.iter().enumerate() {
            let meets = |list: &[u32], with: &[_]| -> Result<bool, String> {
                let places = list.iter().map(place).collect::<Result<Vec<_>, _>>()?;
                Ok(places.iter().any(|p| with.iter().any(|other| overlap(*p, *other))))
            };
            if meets(&touched(&step.op), &receive)? || meets(&self.written(&step.op), &send)? {
                let step = at + 1 + i;
                return Err(format!("step {step} touches what is exchanged until step {until}"));
            }
        }
        Ok(())
    }

    /// Buffers that a step writes.
    fn written(&self, op: &StepOp) -> Vec<u32> {
        let launch = |launch: &Launch| -> Vec<u32> {
            let kernel = self.plan.kernels.get(launch.kernel as usize);
            let params = kernel.iter().flat_map(|k| &k.params);
            params.zip(&launch.args).filter(|(p, _)| p.written).map(|(_, n)| *n).collect()
        };
        let and_epilogue = |c: u32, epilogue: &Option<Epilogue>| {
            let of = epilogue.iter().flat_map(|e| launch(&e.launch));
            [c].into_iter().chain(of).collect()
        };
        match op {
            StepOp::Launch(l) => launch(l),
            StepOp::Contract(c) => and_epilogue(c.c.buffer, &c.epilogue),
            StepOp::Ragged(r) => and_epilogue(r.c.buffer, &r.epilogue),
            StepOp::Attention(a) => {
                let rest = a.lse.iter().chain(&a.max_logit).map(|v| v.buffer);
                [a.o.view.buffer].into_iter().chain(rest).collect()
            }
            StepOp::AttentionGrad(a) => [&a.d_q, &a.d_k, &a.d_v].map(|h| h.view.buffer).to_vec(),
            StepOp::Copy { dst, .. } => vec![*dst],
            StepOp::Collective(c) => c.receive.clone(),
        }
    }

    /// Whether what is received lies apart from everything else.
    fn apart(&self, c: &Collective) -> Check {
        let place = |n: &u32| buffer(self.entry, *n).map(bytes);
        let reduces = matches!(
            c.kind,
            CollectiveKind::AllReduce(_) | CollectiveKind::Reduce(_) | CollectiveKind::Broadcast
        );
        for (i, to) in c.receive.iter().enumerate() {
            let target = place(to)?;
            for (j, from) in c.send.iter().enumerate() {
                let source = place(from)?;
                let own = reduces && i == j && source == target;
                if overlap(source, target) && !own {
                    return Err(format!(
                        "buffer {to} is received over buffer {from}, which is sent"
                    ));
                }
            }
            for other in &c.receive[..i] {
                if overlap(place(other)?, target) {
                    return Err(format!("buffers {other} and {to} are received over each other"));
                }
            }
        }
        Ok(())
    }
}

/// Whether a buffer can hold counts for each rank of a group.
fn counts(buffer: &Buffer, ranks: u64) -> bool {
    buffer.dtype == DType::i32 && ranks > 0 && buffer.elems.is_multiple_of(ranks)
}
