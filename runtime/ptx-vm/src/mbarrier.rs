//! The state of an mbarrier object in its eight bytes of shared memory.
//!
//! A phase ends when no arrivals and no transaction bytes are pending; the next one starts with as many
//! pending arrivals as were set by `init`, less those dropped.
//!
//! | bits | field |
//! |---|---|
//! | 0–19 | pending arrivals of the current phase |
//! | 20–39 | arrivals that a phase expects |
//! | 40–60 | pending transaction bytes, a signed number |
//! | 61 | the current phase's parity |
//! | 62–63 | `10`, which marks the object |
//!
//! # Invariants
//! - Eight bytes of zeros are no mbarrier; `inval` leaves zeros.
//! - A token is the object's bits when its thread arrived.

/// The largest count of arrivals, and the largest magnitude of pending bytes: 2²⁰ - 1.
pub const MAX_COUNT: u32 = (1 << 20) - 1;

/// An mbarrier object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mbarrier {
    /// Arrivals that the current phase waits for.
    pub pending: u32,
    /// Arrivals that a phase starts with.
    pub expected: u32,
    /// Bytes that the current phase waits for; negative when copies ended before they were expected.
    pub pending_bytes: i32,
    /// The current phase's number modulo 2.
    pub parity: bool,
}

/// What was wrong with an operation on an mbarrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MbarrierError {
    /// The bytes are no mbarrier.
    #[error("no mbarrier was initialised here")]
    Uninitialised,
    /// An arrival count of `init` or of an arrival is 0 or too large.
    #[error("a count of {0} arrivals is not 1 to 1048575")]
    Count(u32),
    /// More arrivals than the phase waits for.
    #[error("{arriving} arrive, but the phase waits for {pending}")]
    Underflow {
        /// Arrivals of the operation.
        arriving: u32,
        /// Arrivals that the phase waits for.
        pending: u32,
    },
    /// The pending bytes left the range of the object.
    #[error("{0} pending bytes are beyond 1048575")]
    Bytes(i64),
    /// A `.noComplete` arrival ended the phase.
    #[error("an arrival with .noComplete completes the phase")]
    Completes,
}

const COUNT_BITS: u32 = 20;
const MARK: u64 = 0b10 << 62;

impl Mbarrier {
    /// `mbarrier.init`.
    ///
    /// # Errors
    /// [`MbarrierError::Count`].
    pub const fn init(count: u32) -> Result<Self, MbarrierError> {
        if count == 0 || count > MAX_COUNT {
            return Err(MbarrierError::Count(count));
        }
        Ok(Self { pending: count, expected: count, pending_bytes: 0, parity: false })
    }

    /// Reads the object's bits, or a token's.
    ///
    /// # Errors
    /// [`MbarrierError::Uninitialised`].
    pub const fn decode(bits: u64) -> Result<Self, MbarrierError> {
        if bits & (0b11 << 62) != MARK {
            return Err(MbarrierError::Uninitialised);
        }
        let signed = (bits << 3) as i64 >> 43;
        Ok(Self {
            pending: bits as u32 & MAX_COUNT,
            expected: (bits >> COUNT_BITS) as u32 & MAX_COUNT,
            pending_bytes: signed as i32,
            parity: bits >> 61 & 1 == 1,
        })
    }

    /// The object's bits.
    #[must_use]
    pub const fn encode(self) -> u64 {
        let bytes = self.pending_bytes as u64 & ((1 << 21) - 1);
        let counts = self.pending as u64 | (self.expected as u64) << COUNT_BITS;
        counts | bytes << 40 | (self.parity as u64) << 61 | MARK
    }

    /// `count` threads arrive; with `drop`, later phases wait for as many fewer. Returns the token.
    ///
    /// # Errors
    /// [`MbarrierError::Count`], [`MbarrierError::Underflow`].
    pub const fn arrive(&mut self, count: u32, drop: bool) -> Result<u64, MbarrierError> {
        if count == 0 || count > MAX_COUNT {
            return Err(MbarrierError::Count(count));
        }
        // The bits may be anything: a plain store may have written them.
        let most = if drop && self.expected < self.pending { self.expected } else { self.pending };
        if count > most {
            return Err(MbarrierError::Underflow { arriving: count, pending: most });
        }
        let token = self.encode();
        if drop {
            self.expected -= count;
        }
        self.pending -= count;
        self.complete();
        Ok(token)
    }

    /// `arrive.noComplete`: as [`Self::arrive`], but the phase must go on.
    ///
    /// # Errors
    /// Those of [`Self::arrive`] and [`MbarrierError::Completes`].
    pub const fn arrive_no_complete(
        &mut self,
        count: u32,
        drop: bool,
    ) -> Result<u64, MbarrierError> {
        if count == self.pending && self.pending_bytes == 0 {
            return Err(MbarrierError::Completes);
        }
        self.arrive(count, drop)
    }

    /// `expect_tx`: the current phase waits for `bytes` more.
    ///
    /// # Errors
    /// [`MbarrierError::Bytes`].
    pub const fn expect_bytes(&mut self, bytes: u32) -> Result<(), MbarrierError> {
        self.add_bytes(bytes as i64)
    }

    /// `complete_tx`: `bytes` have arrived.
    ///
    /// # Errors
    /// [`MbarrierError::Bytes`].
    pub const fn complete_bytes(&mut self, bytes: u32) -> Result<(), MbarrierError> {
        if let Err(error) = self.add_bytes(-(bytes as i64)) {
            return Err(error);
        }
        self.complete();
        Ok(())
    }

    const fn add_bytes(&mut self, bytes: i64) -> Result<(), MbarrierError> {
        let sum = self.pending_bytes as i64 + bytes;
        if sum.unsigned_abs() > MAX_COUNT as u64 {
            return Err(MbarrierError::Bytes(sum));
        }
        self.pending_bytes = sum as i32;
        Ok(())
    }

    const fn complete(&mut self) {
        if self.pending == 0 && self.pending_bytes == 0 {
            self.pending = self.expected;
            self.parity = !self.parity;
        }
    }

    /// `test_wait.parity`: whether the phase of that parity, the current or the one before it, is complete.
    #[must_use]
    pub const fn has_completed(&self, parity: bool) -> bool {
        self.parity != parity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_survive_their_bits() {
        for pending_bytes in [0, 1, -1, 1_048_575, -1_048_575] {
            for parity in [false, true] {
                let object = Mbarrier { pending: 3, expected: MAX_COUNT, pending_bytes, parity };
                assert_eq!(Mbarrier::decode(object.encode()), Ok(object));
            }
        }
        assert_eq!(Mbarrier::decode(0), Err(MbarrierError::Uninitialised));
        assert_eq!(Mbarrier::decode(u64::MAX), Err(MbarrierError::Uninitialised));
    }

    #[test]
    fn a_phase_ends_when_arrivals_and_bytes_are_there() {
        let mut object = Mbarrier::init(2).expect("a count");
        object.expect_bytes(64).expect("room");
        object.arrive(1, false).expect("pending");
        object.arrive(1, false).expect("pending");
        assert!(!object.has_completed(false));
        object.complete_bytes(64).expect("room");
        assert!(object.has_completed(false) && !object.has_completed(true));
        assert_eq!((object.pending, object.pending_bytes), (2, 0));
    }

    #[test]
    fn bytes_may_arrive_before_they_are_expected() {
        let mut object = Mbarrier::init(1).expect("a count");
        object.complete_bytes(64).expect("room");
        assert_eq!(object.pending_bytes, -64);
        object.expect_bytes(64).expect("room");
        let token = object.arrive(1, false).expect("pending");
        assert!(object.has_completed(Mbarrier::decode(token).expect("a token").parity));
    }

    #[test]
    fn dropping_lowers_the_count_of_later_phases() {
        let mut object = Mbarrier::init(2).expect("a count");
        object.arrive(1, true).expect("pending");
        object.arrive(1, false).expect("pending");
        assert_eq!((object.pending, object.parity), (1, true));
    }

    #[test]
    fn misuse_is_an_error() {
        assert_eq!(Mbarrier::init(0), Err(MbarrierError::Count(0)));
        assert_eq!(Mbarrier::init(1 << 20), Err(MbarrierError::Count(1 << 20)));
        let mut object = Mbarrier::init(1).expect("a count");
        let underflow = MbarrierError::Underflow { arriving: 2, pending: 1 };
        assert_eq!(object.arrive(2, false), Err(underflow));
        assert_eq!(object.arrive_no_complete(1, false), Err(MbarrierError::Completes));
        assert_eq!(object.expect_bytes(1 << 20), Err(MbarrierError::Bytes(1 << 20)));
        let mut overwritten = Mbarrier { pending: 5, expected: 0, ..object };
        let underflow = MbarrierError::Underflow { arriving: 5, pending: 0 };
        assert_eq!(overwritten.arrive(5, true), Err(underflow));
    }
}
