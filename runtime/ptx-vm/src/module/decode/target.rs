//! The target that an instruction needs at least: what a text for an older chip cannot contain.
//!
//! # Invariants
//! - Only what the text says decides: the name and the modifiers of an instruction.

use crate::parse::ast::Instruction;

/// A target: the number of `sm_90`, and whether its text is for that chip alone, as with `sm_90a`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Target {
    number: u32,
    only: bool,
}

impl Target {
    /// The target of a text; unknown words have everything.
    pub(super) fn named(word: &str) -> Self {
        let number = word.strip_prefix("sm_").unwrap_or(word);
        let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        Self { number: digits.parse().unwrap_or(u32::MAX), only: number.ends_with('a') }
    }

    /// Whether a text for this target may contain what needs `least`.
    pub(super) fn has(self, least: Self) -> bool {
        if least.only {
            return self == least || self.number == u32::MAX;
        }
        self.number >= least.number
    }

    pub(super) fn name(self) -> String {
        format!("sm_{}{}", self.number, if self.only { "a" } else { "" })
    }
}

/// What an instruction needs at least.
pub(super) fn needed(inst: &Instruction<'_>) -> Target {
    let has = |word: &str| inst.modifiers.contains(&word);
    let any = |words: &[&str]| words.iter().any(|word| has(word));
    let number = match inst.name {
        "wgmma" | "setmaxnreg" => return Target { number: 90, only: true },
        "tensormap" if has("replace") => return Target { number: 90, only: true },
        "tensormap" | "mapa" | "getctarank" | "stmatrix" | "elect" | "griddepcontrol" => 90,
        "barrier" if has("cluster") => 90,
        "fence" if any(&["cluster", "mbarrier_init", "async", "tensormap::generic"]) => 90,
        "st" | "red" if has("async") => 90,
        "cp" if has("bulk") => 90,
        "mbarrier" if any(&["try_wait", "expect_tx", "complete_tx"]) => 90,
        "ld" | "st" | "atom" | "red" | "mbarrier" if any(&["cluster", "shared::cluster"]) => 90,
        "cvt" | "mma" if any(&["e4m3x2", "e5m2x2", "e4m3", "e5m2"]) => 89,
        "cp" if has("async") => 80,
        "mbarrier" | "redux" | "createpolicy" => 80,
        "mma" if any(&["tf32", "bf16", "f64"]) => 80,
        "ldmatrix" | "movmatrix" => 75,
        "mma" => 70,
        _ => 0,
    };
    Target { number, only: false }
}

#[cfg(test)]
mod tests {
    use super::Target;

    #[test]
    fn later_chips_have_what_earlier_ones_have_but_not_what_is_for_one_alone() {
        let [old, new, only, later] = ["sm_80", "sm_90", "sm_90a", "sm_100a"].map(Target::named);
        assert!(new.has(old) && only.has(new) && later.has(new));
        assert!(!old.has(new) && !new.has(only) && !later.has(only) && only.has(only));
        assert_eq!(only.name(), "sm_90a");
    }
}
