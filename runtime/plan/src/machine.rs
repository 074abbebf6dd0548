//! What a machine can do, as far as schedules and predictions need to know: rooflines for what a
//! rank computes, and a latency and a bandwidth (α–β) for what it sends.
//!
//! # Invariants
//! - Times follow from the numbers alone; a machine is data, written as RON and kept with the plan
//!   whose order was made for it.
//!
//! # Units
//! Nanoseconds, bytes and operations a second.

use serde::{Deserialize, Serialize};

use crate::Exchange;
use crate::work::{Class, Work};

/// Room that overlap has unless a machine says otherwise.
const ROOM: f64 = 1.25;

/// Rates of a rank and of its links.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// What it is, for readers.
    pub name: String,
    /// Time of a step that does nothing.
    pub step_ns: f64,
    /// Floating-point operations a second of contractions.
    pub contract_flops: f64,
    /// Of contractions grouped by expert.
    pub ragged_flops: f64,
    /// Of attention and its gradient.
    pub attention_flops: f64,
    /// Of every other kernel.
    pub loop_flops: f64,
    /// Bytes a second to and from memory.
    pub memory_bytes: f64,
    /// Between ranks.
    pub link: Link,
    /// How many times the temporaries of the same kernels one after another an order with overlap may
    /// take.
    pub room: f64,
}

/// What carries bytes between ranks: `n` bytes take `latency + n / bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// Time of an exchange that sends nothing.
    pub latency_ns: f64,
    /// Bytes a second that a rank sends.
    pub bytes: f64,
}

impl Default for Machine {
    /// A rank on one core of a CPU, linked by memory: rates that AVX2 has on a server of
    /// 2023, within a factor of two.
    fn default() -> Self {
        Machine {
            name: "one CPU core".to_owned(),
            step_ns: 2e3,
            contract_flops: 5e10,
            ragged_flops: 4e10,
            attention_flops: 2e10,
            loop_flops: 4e9,
            memory_bytes: 1e10,
            link: Link { latency_ns: 2e4, bytes: 4e9 },
            room: ROOM,
        }
    }
}

impl Machine {
    /// A rank that is one H100 with 400 Gbit/s to the others: half of what its data sheet promises
    /// for products of bf16, nine tenths of its memory's bandwidth.
    pub fn h100() -> Self {
        Machine {
            name: "H100, 400 Gbit/s".to_owned(),
            step_ns: 5e3,
            contract_flops: 5e14,
            ragged_flops: 4e14,
            attention_flops: 3e14,
            loop_flops: 2e13,
            memory_bytes: 3e12,
            link: Link { latency_ns: 2e4, bytes: 4.5e10 },
            room: ROOM,
        }
    }

    /// A machine from RON.
    ///
    /// # Errors
    /// Text that is none, and rates that are not above zero.
    pub fn from_ron(text: &str) -> Result<Machine, String> {
        let machine: Machine = ron::from_str(text).map_err(|e| e.to_string())?;
        let rates = [
            ("contract_flops", machine.contract_flops),
            ("ragged_flops", machine.ragged_flops),
            ("attention_flops", machine.attention_flops),
            ("loop_flops", machine.loop_flops),
            ("memory_bytes", machine.memory_bytes),
            ("link.bytes", machine.link.bytes),
        ];
        let times = [("step_ns", machine.step_ns), ("link.latency_ns", machine.link.latency_ns)];
        for (name, rate) in rates {
            if !(rate.is_finite() && rate > 0.0) {
                return Err(format!("`{name}` is {rate}; a rate is above zero"));
            }
        }
        for (name, time) in times {
            if !(time.is_finite() && time >= 0.0) {
                return Err(format!("`{name}` is {time}; a time is not below zero"));
            }
        }
        if !(machine.room.is_finite() && machine.room >= 1.0) {
            return Err(format!("`room` is {}; it is 1 at least", machine.room));
        }
        Ok(machine)
    }

    /// As RON, one field a line.
    pub fn to_ron(&self) -> String {
        let pretty = ron::ser::PrettyConfig::new().new_line("\n").indentor("  ");
        ron::ser::to_string_pretty(self, pretty).unwrap_or_default() + "\n"
    }

    /// Time of some work on a rank: the longer of its operations and its bytes.
    pub fn compute_ns(&self, work: &Work) -> f64 {
        let rate = match work.class {
            Class::Contract => self.contract_flops,
            Class::Ragged => self.ragged_flops,
            Class::Attention => self.attention_flops,
            Class::Loops | Class::Exchange => self.loop_flops,
        };
        let (flops, bytes) = (work.flops as f64 / rate, work.bytes as f64 / self.memory_bytes);
        self.step_ns + 1e9 * flops.max(bytes) + self.compute_of_epilogue(work)
    }

    fn compute_of_epilogue(&self, work: &Work) -> f64 {
        1e9 * work.epilogue_flops as f64 / self.loop_flops
    }

    /// Time that a collective is under way; none in a group of one.
    pub fn exchange_ns(&self, exchange: &Exchange) -> f64 {
        if exchange.ranks < 2 {
            return 0.0;
        }
        let Link { latency_ns, bytes } = self.link;
        exchange.exchanges() as f64 * latency_ns + 1e9 * exchange.expected_bytes() / bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CollectiveKind, Reduction, SEGMENT_BYTES};

    #[test]
    fn a_machine_is_read_as_it_is_written_and_rates_are_above_zero() {
        let machine = Machine::h100();
        assert_eq!(Machine::from_ron(&machine.to_ron()), Ok(machine.clone()));
        let none = Machine { loop_flops: 0.0, ..machine.clone() };
        assert!(Machine::from_ron(&none.to_ron()).is_err_and(|e| e.contains("loop_flops")));
        let tight = Machine { room: 0.5, ..machine.clone() };
        assert!(Machine::from_ron(&tight.to_ron()).is_err_and(|e| e.contains("room")));
        let early = Machine { step_ns: -1.0, ..machine };
        assert!(Machine::from_ron(&early.to_ron()).is_err_and(|e| e.contains("step_ns")));
        assert!(Machine::from_ron("(name: \"x\")").is_err());
    }

    #[test]
    fn a_step_takes_the_longer_of_its_operations_and_its_bytes() {
        let machine = Machine { step_ns: 10.0, ..Machine::default() };
        let work = |flops, bytes| Work { flops, bytes, ..Work::new(Class::Contract) };
        assert_eq!(machine.compute_ns(&work(50_000_000_000, 8)), 10.0 + 1e9);
        assert_eq!(machine.compute_ns(&work(8, 10_000_000_000)), 10.0 + 1e9);
        let link = Link { latency_ns: 100.0, bytes: 1e9 };
        let machine = Machine { link, ..machine };
        let sum = CollectiveKind::AllReduce(Reduction::Sum);
        let (values, roots) = (vec![(10, 4)], Vec::new());
        let receive = values.clone();
        let all_reduce = Exchange { kind: sum, send: values, receive, roots, ranks: 2 };
        assert_eq!(machine.exchange_ns(&all_reduce), 2.0 * 100.0 + 40.0);
        let long = Exchange { send: vec![(SEGMENT_BYTES, 4)], ..all_reduce.clone() };
        assert_eq!(long.exchanges(), 8, "four segments, out and back");
        assert_eq!(machine.exchange_ns(&Exchange { ranks: 1, ..all_reduce }), 0.0);
    }
}
