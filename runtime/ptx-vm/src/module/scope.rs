//! Names of a function: registers, variables and labels, in nested blocks.
//!
//! # Invariants
//! - A register takes a row when it is first named, so that `.reg .b32 %r<1000000>` costs nothing.

use super::op::{Pred, Row};
use super::types::Type;
use std::collections::HashMap;

/// A declared name or, with a count, a family of names.
#[derive(Clone, Copy, Debug)]
struct Declared {
    ty: Type,
    vector: u32,
    count: Option<u64>,
    /// Numbers the declaration, so that names of different blocks get different rows.
    id: u32,
}

/// A register: its type and its row, or its number among the predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Register {
    pub(super) ty: Type,
    pub(super) row: Row,
}

/// What a name of a function stands for beside registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symbol {
    /// A variable of the module.
    Variable(u32),
    /// An offset and a size in the frame.
    Frame {
        offset: u32,
        bytes: u32,
    },
    /// An offset in the kernel's parameter block.
    Param {
        offset: u32,
    },
    Function(u32),
}

/// Blocks, innermost last.
#[derive(Debug, Default)]
pub(super) struct Scopes<'a> {
    blocks: Vec<Block<'a>>,
    rows: HashMap<(u32, &'a str, u32), Register>,
    next_id: u32,
    opened: u32,
    pub(super) n_rows: Row,
    pub(super) n_preds: Pred,
}

#[derive(Debug, Default)]
struct Block<'a> {
    /// Blocks are numbered as they open; the body itself is 0.
    number: u32,
    registers: HashMap<&'a str, Declared>,
    symbols: HashMap<&'a str, Symbol>,
}

impl<'a> Scopes<'a> {
    /// The outermost block; row 0 and predicate 1 take what nobody wants, and
    /// predicate 0 is never set.
    pub(super) fn new() -> Self {
        Self { blocks: vec![Block::default()], n_rows: 1, n_preds: 2, ..Self::default() }
    }

    pub(super) fn open(&mut self) {
        self.opened += 1;
        self.blocks.push(Block { number: self.opened, ..Block::default() });
    }

    /// Numbers of the open blocks, innermost first.
    pub(super) fn blocks(&self) -> impl Iterator<Item = u32> {
        self.blocks.iter().rev().map(|block| block.number)
    }

    pub(super) fn close(&mut self) {
        if self.blocks.len() > 1 {
            self.blocks.pop();
        }
    }

    fn innermost(&mut self) -> &mut Block<'a> {
        if self.blocks.is_empty() {
            self.blocks.push(Block::default());
        }
        let last = self.blocks.len() - 1;
        &mut self.blocks[last]
    }

    /// Declares a register or a family of registers; whether the block has no other of the name.
    pub(super) fn declare(
        &mut self,
        name: &'a str,
        ty: Type,
        vector: u32,
        count: Option<u64>,
    ) -> bool {
        let id = self.next_id;
        self.next_id += 1;
        let declared = Declared { ty, vector, count, id };
        self.innermost().registers.insert(name, declared).is_none()
    }

    pub(super) fn define(&mut self, name: &'a str, symbol: Symbol) {
        self.innermost().symbols.insert(name, symbol);
    }

    pub(super) fn symbol(&self, name: &str) -> Option<Symbol> {
        self.blocks.iter().rev().find_map(|block| block.symbols.get(name)).copied()
    }

    /// The register `name`, or the component of a vector register.
    pub(super) fn register(&mut self, name: &'a str, member: Option<&str>) -> Option<Register> {
        let declared = self.blocks.iter().rev().find_map(|block| declared(block, name))?;
        let component = match member {
            None if declared.vector == 1 => 0,
            None => return None,
            Some(member) => ["x", "y", "z", "w"].iter().position(|word| *word == member)? as u32,
        };
        if component >= declared.vector || (member.is_some() && declared.vector == 1) {
            return None;
        }
        let (n_rows, n_preds) = (&mut self.n_rows, &mut self.n_preds);
        let register = self.rows.entry((declared.id, name, component)).or_insert_with(|| {
            let next = if declared.ty == Type::Pred { n_preds } else { n_rows };
            *next += 1;
            Register { ty: declared.ty, row: *next - 1 }
        });
        Some(*register)
    }
}

fn declared(block: &Block<'_>, name: &str) -> Option<Declared> {
    if let Some(found) = block.registers.get(name).filter(|found| found.count.is_none()) {
        return Some(*found);
    }
    let family = name.trim_end_matches(|c: char| c.is_ascii_digit());
    // A family may end in digits itself: every split of the trailing digits is tried.
    const MOST_DIGITS: usize = 20;
    (family.len().max(name.len().saturating_sub(MOST_DIGITS))..name.len()).find_map(|split| {
        let (family, number) = name.split_at(split);
        let found = block.registers.get(family)?;
        let plain = number == "0" || !number.starts_with('0');
        let number = number.parse::<u64>().ok().filter(|_| plain)?;
        found.count.filter(|count| number < *count).map(|_| *found)
    })
}
