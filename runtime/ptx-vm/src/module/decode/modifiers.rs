//! The modifiers of an instruction, taken one by one until none is left.

use super::super::op::{Order, Scope};
use super::super::types::{Space, Type};
use crate::number::Rounding;
use crate::parse::ast::Instruction;

/// Modifiers not yet understood.
#[derive(Debug)]
pub(in crate::module) struct Modifiers<'a> {
    left: Vec<&'a str>,
}

impl<'a> Modifiers<'a> {
    pub(super) fn of(inst: &Instruction<'a>) -> Self {
        Self { left: inst.modifiers.clone() }
    }

    /// Takes `word` wherever it stands.
    pub(super) fn flag(&mut self, word: &str) -> bool {
        let found = self.left.iter().position(|left| *left == word);
        found.map(|at| self.left.remove(at)).is_some()
    }

    /// Takes the first word that `meaning` knows.
    pub(super) fn pick<T>(&mut self, meaning: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (at, found) =
            self.left.iter().enumerate().find_map(|(at, w)| Some((at, meaning(w)?)))?;
        self.left.remove(at);
        Some(found)
    }

    /// Takes the next type.
    pub(super) fn ty(&mut self) -> Option<Type> {
        self.pick(Type::named)
    }

    /// Takes a state space; generic without one.
    pub(super) fn space(&mut self) -> Space {
        self.pick(Space::named).unwrap_or(Space::Generic)
    }

    pub(super) fn rounding(&mut self) -> Option<Rounding> {
        self.pick(|word| {
            Some(match word {
                "rn" => Rounding::NearestEven,
                "rz" => Rounding::Zero,
                "rm" => Rounding::Down,
                "rp" => Rounding::Up,
                "rna" => Rounding::NearestAway,
                _ => return None,
            })
        })
    }

    /// Takes the memory order, or `.volatile`.
    pub(super) fn order(&mut self) -> Option<Order> {
        self.pick(|word| {
            Some(match word {
                "weak" => Order::Weak,
                "relaxed" | "volatile" | "mmio" => Order::Relaxed,
                "acquire" => Order::Acquire,
                "release" => Order::Release,
                "acq_rel" | "sc" => Order::AcquireRelease,
                _ => return None,
            })
        })
    }

    /// Takes the scope; the widest without one.
    pub(super) fn scope(&mut self) -> Scope {
        let scope = self.pick(|word| {
            Some(match word {
                "cta" => Scope::Cta,
                "cluster" => Scope::Cluster,
                "gpu" | "sys" | "gl" => Scope::Device,
                _ => return None,
            })
        });
        scope.unwrap_or(Scope::Device)
    }

    /// Takes what only hints at caches.
    pub(super) fn cache_hints(&mut self) -> bool {
        let mut policy = false;
        self.left.retain(|word| {
            policy |= *word == "L2::cache_hint";
            !is_cache_hint(word)
        });
        policy
    }

    /// The number of values of a vector access.
    pub(super) fn vector(&mut self) -> usize {
        let width = self.pick(|word| match word {
            "v2" => Some(2),
            "v4" => Some(4),
            "v8" => Some(8),
            _ => None,
        });
        width.unwrap_or(1)
    }

    /// What nobody understood.
    pub(super) fn rest(&self) -> Option<&'a str> {
        self.left.first().copied()
    }
}

fn is_cache_hint(word: &str) -> bool {
    let kept = |word: &str| {
        matches!(word, "evict_normal" | "evict_unchanged" | "evict_first" | "evict_last")
    };
    if let Some(word) = word.strip_prefix("L1::") {
        return kept(word) || word == "no_allocate";
    }
    if let Some(word) = word.strip_prefix("L2::") {
        return kept(word) || matches!(word, "cache_hint" | "64B" | "128B" | "256B");
    }
    matches!(word, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc")
}
