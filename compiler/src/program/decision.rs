//! What fusion and sharding decided and why: data that a call carries, so that every later stage shows it.
//!
//! # Invariants
//! - Every code has one reason; codes and names of rules are part of the printed form.

/// Which rule was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// An elementwise producer into an elementwise consumer.
    Elementwise,
    /// A reduction and an elementwise neighbour over the same rows: norms, softmax.
    RowReduction,
    /// An elementwise producer into a reduction down columns.
    ColumnReduction,
    /// Two kernels over the same extents that read the same value.
    Sibling,
    /// A kernel that runs on each panel of rows as soon as a contraction has finished it.
    Epilogue,
    /// A kernel that runs on each panel of rows just before a contraction reads it.
    Prologue,
    /// A value that ranks hold parts of, at a reader that needs all of it.
    Sharding,
}

/// Why a fusion was accepted or rejected, or a value is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// F00: merged, or marked as an epilogue.
    Fused,
    /// F01: one of them is no loop kernel, or a reduction that cannot take neighbours.
    NotFusable,
    /// F02: their rows differ.
    RowsDiffer,
    /// F03: too few rows to spread a reduction's group over.
    FewRows,
    /// F04: the consumer reads the producer at other rows, so it would be computed again.
    Misaligned,
    /// F05: the merged kernel would be too large.
    TooLarge,
    /// F06: something between them depends on one and feeds the other.
    Cycle,
    /// F07: too far apart.
    Far,
    /// F08: a small value read by many elements would be computed for each of them.
    Recomputed,
    /// F09: the contraction has an epilogue, or the kernel is one of another contraction.
    Taken,
    /// F10: the contraction packs its operand from memory either way, so a prologue saves nothing.
    PackedFromMemory,
    /// F11: what is recomputed for the backward pass would run, and be kept, in the forward pass.
    MadeAgain,
    /// S01: the reader asks for the index along the dimension that is cut.
    IndexOfCut,
    /// S02: the reader's operands are cut in ways that do not go together.
    CutsDiffer,
    /// S03: the reader works across the dimension that is cut.
    AcrossCut,
    /// S04: rows at their experts, or their order, are read other than by experts.
    OutsideExperts,
    /// S05: what an entry gives or keeps is whole.
    WholeResult,
    /// S06: one of them runs on other ranks.
    OtherRanks,
    /// S07: something would wait for a collective of the other that it does not need.
    HeldUp,
}

impl Rule {
    /// All rules.
    pub const ALL: &[Rule] = &[
        Rule::Elementwise,
        Rule::RowReduction,
        Rule::ColumnReduction,
        Rule::Sibling,
        Rule::Epilogue,
        Rule::Prologue,
        Rule::Sharding,
    ];

    /// Its name, `row_reduction`.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Elementwise => "elementwise",
            Rule::RowReduction => "row_reduction",
            Rule::ColumnReduction => "column_reduction",
            Rule::Sibling => "sibling",
            Rule::Epilogue => "epilogue",
            Rule::Prologue => "prologue",
            Rule::Sharding => "sharding",
        }
    }
}

impl Reason {
    /// All reasons, in order of their codes.
    pub const ALL: &[Reason] = &[
        Reason::Fused,
        Reason::NotFusable,
        Reason::RowsDiffer,
        Reason::FewRows,
        Reason::Misaligned,
        Reason::TooLarge,
        Reason::Cycle,
        Reason::Far,
        Reason::Recomputed,
        Reason::Taken,
        Reason::PackedFromMemory,
        Reason::MadeAgain,
        Reason::IndexOfCut,
        Reason::CutsDiffer,
        Reason::AcrossCut,
        Reason::OutsideExperts,
        Reason::WholeResult,
        Reason::OtherRanks,
        Reason::HeldUp,
    ];

    /// Its code, `F03`.
    pub fn code(self) -> &'static str {
        match self {
            Reason::Fused => "F00",
            Reason::NotFusable => "F01",
            Reason::RowsDiffer => "F02",
            Reason::FewRows => "F03",
            Reason::Misaligned => "F04",
            Reason::TooLarge => "F05",
            Reason::Cycle => "F06",
            Reason::Far => "F07",
            Reason::Recomputed => "F08",
            Reason::Taken => "F09",
            Reason::PackedFromMemory => "F10",
            Reason::MadeAgain => "F11",
            Reason::IndexOfCut => "S01",
            Reason::CutsDiffer => "S02",
            Reason::AcrossCut => "S03",
            Reason::OutsideExperts => "S04",
            Reason::WholeResult => "S05",
            Reason::OtherRanks => "S06",
            Reason::HeldUp => "S07",
        }
    }

    /// The reason in words.
    pub fn words(self) -> &'static str {
        match self {
            Reason::Fused => "fused",
            Reason::NotFusable => "one of them cannot be fused",
            Reason::RowsDiffer => "their rows differ",
            Reason::FewRows => "too few rows to spread over threads",
            Reason::Misaligned => "the consumer reads other rows than its own",
            Reason::TooLarge => "the kernel would be too large",
            Reason::Cycle => "something between them depends on one and feeds the other",
            Reason::Far => "they are too far apart",
            Reason::Recomputed => {
                "the value would be computed again for each element that reads it"
            }
            Reason::Taken => "one of them already runs together with another",
            Reason::PackedFromMemory => "the contraction packs its operand from memory either way",
            Reason::MadeAgain => "what is recomputed would be made beside the first and kept",
            Reason::IndexOfCut => "the reader asks for the index along the dimension that is cut",
            Reason::CutsDiffer => "the reader's operands are cut in ways that do not go together",
            Reason::AcrossCut => "the reader works across the dimension that is cut",
            Reason::OutsideExperts => "rows at their experts are read other than by experts",
            Reason::WholeResult => "what an entry gives or keeps is whole",
            Reason::OtherRanks => "one of them runs on other ranks",
            Reason::HeldUp => "something would wait for a collective that it does not need",
        }
    }
}

/// One decision of fusion or sharding.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decision {
    /// The rule.
    pub rule: Rule,
    /// The outcome.
    pub reason: Reason,
    /// Node of the producer, or of the first sibling.
    pub from: String,
    /// Node of the consumer, or of the second sibling.
    pub to: String,
    /// Bytes of the value between them: what need not go through memory if they run together.
    pub bytes: u64,
    /// Rows they share, or would: the extents that lead both; 1 if there are none.
    pub rows: u64,
}
