//! What decoding an instruction may ask: operands to rows, with every read and write noted.

use super::super::PRED_BIT;
use super::super::layout::{Constant, Special};
use super::super::op::{Address, List, Literal, Pred, Row};
use super::super::scope::{Scopes, Symbol};
use super::super::types::{FUNCTION_WINDOW, Space, Type};
use crate::parse::ast::{Instruction, Number, Operand};
use crate::source::{LoadError, Source, Span, code};
use std::collections::HashMap;

/// The row and the predicate that take what nobody wants.
pub(super) const SINK: Row = 0;

/// State of decoding one function.
pub(super) struct Context<'s, 'a> {
    pub(super) source: &'s Source,
    pub(super) globals: &'s HashMap<&'a str, Symbol>,
    pub(super) variable_spaces: Vec<Space>,
    pub(super) scopes: Scopes<'a>,
    pub(super) pool: &'s mut Vec<u32>,
    pub(super) constants: Vec<Constant>,
    known_constants: HashMap<Constant, u32>,
    pub(super) is_entry: bool,
    pub(super) reads: Vec<u32>,
    pub(super) writes: Vec<u32>,
    pub(super) callees: Vec<u32>,
    pub(super) shared: Vec<u32>,
    pub(super) frame_bytes: u32,
    /// Labels, by block and name.
    pub(super) labels: HashMap<(u32, &'a str), u32>,
    /// Lists of labels, by block and name.
    pub(super) targets: HashMap<(u32, &'a str), Vec<&'a str>>,
    /// The instruction being decoded.
    pub(super) span: Span,
    pub(super) name: &'a str,
}

/// Constant rows are numbered from here while registers still grow.
pub(super) const CONSTANT_BIT: u32 = 1 << 30;

impl<'s, 'a> Context<'s, 'a> {
    pub(super) fn new(
        source: &'s Source,
        globals: &'s HashMap<&'a str, Symbol>,
        pool: &'s mut Vec<u32>,
        is_entry: bool,
    ) -> Self {
        Self {
            source,
            globals,
            variable_spaces: Vec::new(),
            scopes: Scopes::new(),
            pool,
            constants: Vec::new(),
            known_constants: HashMap::new(),
            is_entry,
            reads: Vec::new(),
            writes: Vec::new(),
            callees: Vec::new(),
            shared: Vec::new(),
            frame_bytes: 0,
            labels: HashMap::new(),
            targets: HashMap::new(),
            span: Span::default(),
            name: "",
        }
    }

    pub(super) fn error(&self, code: &'static str, message: String) -> LoadError {
        self.source.error(code, self.span, message)
    }

    pub(super) fn bad_operand(&self, message: impl Into<String>) -> LoadError {
        self.error(code::OPERAND, message.into())
    }

    /// The instruction has a form the machine does not know.
    pub(super) fn unknown(&self, what: impl Into<String>) -> LoadError {
        self.error(code::UNKNOWN_INSTRUCTION, what.into())
    }

    /// The operands, if there are exactly `N`.
    pub(super) fn operands<'i, const N: usize>(
        &self,
        inst: &'i Instruction<'a>,
    ) -> Result<&'i [Operand<'a>; N], LoadError> {
        <&[Operand<'a>; N]>::try_from(&inst.operands[..]).map_err(|_| {
            let found = inst.operands.len();
            self.bad_operand(format!("`{}` takes {N} operands here, not {found}", inst.name))
        })
    }

    pub(super) fn constant(&mut self, constant: Constant) -> Row {
        let next = self.constants.len() as u32;
        let index = *self.known_constants.entry(constant).or_insert(next);
        if index == next {
            self.constants.push(constant);
        }
        index | CONSTANT_BIT
    }

    pub(super) fn bits(&mut self, bits: u64) -> Row {
        self.constant(Constant::Bits(bits))
    }

    pub(super) fn list(&mut self, rows: &[u32]) -> List {
        let start = self.pool.len() as u32;
        self.pool.extend_from_slice(rows);
        List { start, len: rows.len() as u32 }
    }

    pub(super) fn symbol(&self, name: &str) -> Option<Symbol> {
        self.scopes.symbol(name).or_else(|| self.globals.get(name).copied())
    }

    fn unknown_name(&self, name: &str) -> LoadError {
        self.error(code::UNKNOWN_SYMBOL, format!("nothing is called `{name}`"))
    }

    /// A register or special register or address, without a check of its width.
    fn named_source(
        &mut self,
        name: &'a str,
        member: Option<&'a str>,
        offset: i64,
    ) -> Result<(Row, Option<Type>), LoadError> {
        if let Some(register) = self.scopes.register(name, member) {
            if offset != 0 {
                return Err(self.bad_operand("a register plus bytes is only an address"));
            }
            if register.ty == Type::Pred {
                return Err(self.bad_operand(format!("`{name}` is a predicate")));
            }
            self.reads.push(register.row);
            return Ok((register.row, Some(register.ty)));
        }
        if name.starts_with('%') {
            let Some(special) = Special::named(name, member) else {
                let dot = member.map(|m| format!(".{m}")).unwrap_or_default();
                return Err(self.unknown_name(&format!("{name}{dot}")));
            };
            return Ok((self.constant(Constant::Special(special)), None));
        }
        if name == "WARP_SZ" {
            return Ok((self.bits(32), None));
        }
        let symbol = self.symbol(name).ok_or_else(|| self.unknown_name(name))?;
        Ok((self.symbol_address(symbol, offset), None))
    }

    /// A row with the address of a symbol, in its space.
    fn symbol_address(&mut self, symbol: Symbol, offset: i64) -> Row {
        match symbol {
            Symbol::Variable(index) => {
                let space = self.variable_spaces.get(index as usize);
                if space == Some(&Space::Shared) && !self.shared.contains(&index) {
                    self.shared.push(index);
                }
                self.constant(Constant::Variable { index, offset })
            }
            Symbol::Frame { offset: at, .. } => {
                self.constant(Constant::Frame(i64::from(at).wrapping_add(offset)))
            }
            Symbol::Param { offset: at } => self.bits(i64::from(at).wrapping_add(offset) as u64),
            Symbol::Function(index) => {
                if !self.callees.contains(&index) {
                    self.callees.push(index);
                }
                self.bits(FUNCTION_WINDOW + u64::from(index) * 16)
            }
        }
    }

    /// A source operand of type `ty`; a register has exactly its width.
    pub(super) fn src(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Row, LoadError> {
        self.source_operand(operand, ty, false)
    }

    /// A source operand whose register may be wider than `ty`, as in `cvt` and `st`.
    pub(super) fn src_wide(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Row, LoadError> {
        self.source_operand(operand, ty, true)
    }

    fn source_operand(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
        wider: bool,
    ) -> Result<Row, LoadError> {
        let (row, found) = match operand {
            Operand::Number(number) => {
                let bits = self.immediate(*number, ty)?;
                return Ok(self.bits(bits));
            }
            Operand::Name { name, offset } => self.named_source(name, None, *offset)?,
            Operand::Member { name, member } => self.named_source(name, Some(member), 0)?,
            _ => return Err(self.bad_operand("expected a register or a constant")),
        };
        self.fits(found, ty, wider)?;
        Ok(row)
    }

    fn fits(&self, found: Option<Type>, ty: Type, wider: bool) -> Result<(), LoadError> {
        let Some(found) = found else { return Ok(()) };
        let good = if wider { found.bits() >= ty.bits() } else { found.bits() == ty.bits() };
        if good {
            return Ok(());
        }
        let (have, want) = (found.bits(), ty.bits());
        Err(self
            .bad_operand(format!("a register of {have} bits where `.{}` has {want}", ty.name())))
    }

    /// A number as the bits of `ty`.
    pub(super) fn immediate(&self, number: Number, ty: Type) -> Result<u64, LoadError> {
        let mask = if ty.bits() >= 64 { u64::MAX } else { (1 << ty.bits()) - 1 };
        Ok(match (number, ty) {
            (Number::Int(_), Type::F32 | Type::F64) => {
                return Err(self.bad_operand("a whole number where a float belongs"));
            }
            (Number::Int(value), _) => value & mask,
            (Number::F32(bits), Type::F64) => f64::from(f32::from_bits(bits)).to_bits(),
            (Number::F64(bits), Type::F32) => (f64::from_bits(bits) as f32).to_bits().into(),
            (Number::F32(bits), _) if ty.bits() == 32 => bits.into(),
            (Number::F64(bits), _) if ty.bits() == 64 => bits,
            _ => return Err(self.bad_operand(format!("a float where `.{}` belongs", ty.name()))),
        })
    }

    /// A destination register of exactly the width of `ty`, or `_`.
    pub(super) fn dst(&mut self, operand: &Operand<'a>, ty: Type) -> Result<Row, LoadError> {
        Ok(self.destination(operand, ty, false)?.0)
    }

    /// A destination register that may be wider than `ty`, and its width in bits.
    pub(super) fn dst_wide(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
    ) -> Result<(Row, u32), LoadError> {
        self.destination(operand, ty, true)
    }

    fn destination(
        &mut self,
        operand: &Operand<'a>,
        ty: Type,
        wider: bool,
    ) -> Result<(Row, u32), LoadError> {
        let (name, member) = match operand {
            Operand::Name { name: "_", offset: 0 } => return Ok((SINK, ty.bits())),
            Operand::Name { name, offset: 0 } => (*name, None),
            Operand::Member { name, member } => (*name, Some(*member)),
            _ => return Err(self.bad_operand("expected a register to write to")),
        };
        let register = self.scopes.register(name, member);
        let register = register.ok_or_else(|| self.unknown_name(name))?;
        if register.ty == Type::Pred {
            return Err(self.bad_operand(format!("`{name}` is a predicate")));
        }
        self.fits(Some(register.ty), ty, wider)?;
        self.writes.push(register.row);
        Ok((register.row, register.ty.bits()))
    }

    fn predicate(&mut self, name: &'a str) -> Result<Pred, LoadError> {
        let register = self.scopes.register(name, None).ok_or_else(|| self.unknown_name(name))?;
        if register.ty == Type::Pred {
            return Ok(register.row);
        }
        Err(self.bad_operand(format!("`{name}` is not a predicate")))
    }

    /// The guard or another predicate by name.
    pub(super) fn literal_named(
        &mut self,
        name: &'a str,
        negated: bool,
    ) -> Result<Literal, LoadError> {
        let pred = self.predicate(name)?;
        self.reads.push(pred | PRED_BIT);
        Ok(Literal { pred, negated })
    }

    /// A predicate read, possibly negated; a number is a constant predicate.
    pub(super) fn literal(&mut self, operand: &Operand<'a>) -> Result<Literal, LoadError> {
        match operand {
            Operand::Name { name, offset: 0 } => self.literal_named(name, false),
            Operand::Not(inner) => match &**inner {
                Operand::Name { name, offset: 0 } => self.literal_named(name, true),
                _ => Err(self.bad_operand("expected a predicate")),
            },
            // Predicate 0 is never set, so its negation is true.
            Operand::Number(Number::Int(value)) => Ok(Literal { pred: 0, negated: *value != 0 }),
            _ => Err(self.bad_operand("expected a predicate")),
        }
    }

    /// A predicate written, or `_`.
    pub(super) fn dst_pred(&mut self, operand: &Operand<'a>) -> Result<Pred, LoadError> {
        match operand {
            Operand::Name { name: "_", offset: 0 } => Ok(super::SINK_PRED),
            Operand::Name { name, offset: 0 } => {
                let pred = self.predicate(name)?;
                self.writes.push(pred | PRED_BIT);
                Ok(pred)
            }
            _ => Err(self.bad_operand("expected a predicate to write to")),
        }
    }

    /// `[base + offset]`.
    pub(super) fn address(
        &mut self,
        operand: &Operand<'a>,
        space: Space,
    ) -> Result<Address, LoadError> {
        match operand {
            Operand::Address { base, offset, more } if more.is_empty() => {
                self.address_parts(base, *offset, space)
            }
            _ => Err(self.bad_operand("expected an address in brackets")),
        }
    }

    pub(super) fn address_parts(
        &mut self,
        base: &Operand<'a>,
        offset: i64,
        space: Space,
    ) -> Result<Address, LoadError> {
        let (name, member) = match base {
            Operand::Name { name, offset: 0 } => (*name, None),
            Operand::Member { name, member } => (*name, Some(*member)),
            Operand::Number(Number::Int(value)) => {
                return Ok(Address { base: self.bits(*value), offset, space });
            }
            _ => return Err(self.bad_operand("expected a base for the address")),
        };
        if let Some(register) = self.scopes.register(name, member) {
            if register.ty.bits() < 32 {
                return Err(self.bad_operand(format!("`{name}` is too narrow for an address")));
            }
            self.reads.push(register.row);
            // Device functions have their parameters in the frame.
            let space = if space == Space::Param && !self.is_entry { Space::Local } else { space };
            return Ok(Address { base: register.row, offset, space });
        }
        let symbol = self.symbol(name).ok_or_else(|| self.unknown_name(name))?;
        let base = self.symbol_address(symbol, 0);
        let space = self.symbol_space(symbol, space)?;
        Ok(Address { base, offset, space })
    }

    /// The space an access by name goes to: the symbol's own, which a typed space must agree with.
    fn symbol_space(&self, symbol: Symbol, typed: Space) -> Result<Space, LoadError> {
        let own = match symbol {
            Symbol::Variable(index) => {
                self.variable_spaces.get(index as usize).copied().unwrap_or(Space::Global)
            }
            Symbol::Frame { .. } => Space::Local,
            Symbol::Param { .. } => Space::Param,
            Symbol::Function(_) => return Err(self.bad_operand("a function is no memory")),
        };
        let agrees = match typed {
            Space::Generic => true,
            Space::Param => matches!(own, Space::Param | Space::Local),
            Space::SharedCluster => own == Space::Shared,
            _ => own == typed,
        };
        if agrees {
            return Ok(own);
        }
        let (own, typed) = (own.name(), typed.name());
        Err(self.bad_operand(format!("the variable lies in `.{own}`, not in `.{typed}`")))
    }

    /// The place of a call's argument or result.
    pub(super) fn frame_symbol(&self, name: &str) -> Option<(u32, u32)> {
        match self.symbol(name) {
            Some(Symbol::Frame { offset, bytes }) => Some((offset, bytes)),
            _ => None,
        }
    }

    pub(super) fn function(&mut self, name: &str) -> Option<u32> {
        match self.symbol(name) {
            Some(Symbol::Function(index)) => {
                if !self.callees.contains(&index) {
                    self.callees.push(index);
                }
                Some(index)
            }
            _ => None,
        }
    }

    /// The type of a register operand.
    pub(super) fn register_type(&mut self, operand: &Operand<'a>) -> Option<Type> {
        match operand {
            Operand::Name { name, offset: 0 } => Some(self.scopes.register(name, None)?.ty),
            Operand::Member { name, member } => Some(self.scopes.register(name, Some(member))?.ty),
            _ => None,
        }
    }
}
