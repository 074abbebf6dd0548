//! Devices as data: what limits CTAs on a multiprocessor, and what limits a kernel's time.

use super::work::Pipe;
use serde::Serialize;

/// A GPU: limits of a multiprocessor, and peak rates of the whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Device {
    /// The target, such as `sm_90`.
    pub target: &'static str,
    /// The product whose rates these are.
    pub product: &'static str,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Warps that a multiprocessor holds.
    pub warps: u32,
    /// CTAs that a multiprocessor holds.
    pub ctas: u32,
    /// 32-bit registers of a multiprocessor.
    pub registers: u32,
    /// Registers are given to a warp in multiples of this.
    pub register_unit: u32,
    /// Warps of a CTA are rounded up to a multiple of this for registers.
    pub warp_unit: u32,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_bytes: u32,
    /// Bytes of shared memory that a CTA takes beside its own.
    pub reserved_shared_bytes: u32,
    /// Shared memory is given in multiples of this.
    pub shared_unit: u32,
    /// Clock under load, in GHz.
    pub clock_ghz: f64,
    /// Bytes per second of device memory.
    pub memory_bytes_per_s: f64,
    /// Floating-point operations per second outside the tensor cores, f32.
    pub f32_flops: f64,
    /// The same for f64.
    pub f64_flops: f64,
    /// The same for f16 and bf16.
    pub f16_flops: f64,
    /// Operations per second of the tensor cores on operands of 64 bits.
    pub tensor_f64_flops: f64,
    /// The same for tf32.
    pub tensor_tf32_flops: f64,
    /// The same for f16 and bf16.
    pub tensor_f16_flops: f64,
    /// The same for operands of 8 bits.
    pub tensor_8bit_flops: f64,
}

/// The devices that are known, from NVIDIA's data sheets and occupancy tables.
pub const DEVICES: [Device; 2] = [
    Device {
        target: "sm_80",
        product: "A100 SXM 80 GB",
        multiprocessors: 108,
        warps: 64,
        ctas: 32,
        registers: 65536,
        register_unit: 256,
        warp_unit: 4,
        shared_bytes: 164 << 10,
        reserved_shared_bytes: 1 << 10,
        shared_unit: 128,
        clock_ghz: 1.41,
        memory_bytes_per_s: 2.039e12,
        f32_flops: 19.5e12,
        f64_flops: 9.7e12,
        f16_flops: 78e12,
        tensor_f64_flops: 19.5e12,
        tensor_tf32_flops: 156e12,
        tensor_f16_flops: 312e12,
        tensor_8bit_flops: 624e12,
    },
    Device {
        target: "sm_90",
        product: "H100 SXM",
        multiprocessors: 132,
        warps: 64,
        ctas: 32,
        registers: 65536,
        register_unit: 256,
        warp_unit: 4,
        shared_bytes: 228 << 10,
        reserved_shared_bytes: 1 << 10,
        shared_unit: 128,
        clock_ghz: 1.83,
        memory_bytes_per_s: 3.352e12,
        f32_flops: 66.9e12,
        f64_flops: 33.5e12,
        f16_flops: 133.8e12,
        tensor_f64_flops: 66.9e12,
        tensor_tf32_flops: 494.7e12,
        tensor_f16_flops: 989.4e12,
        tensor_8bit_flops: 1978.9e12,
    },
];

impl Device {
    /// The device of a `.target`: the newest that is not newer, or the oldest.
    #[must_use]
    pub fn of(target: &str) -> &'static Self {
        let number = |target: &str| -> Option<u32> {
            let digits = target.strip_prefix("sm_")?;
            digits.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
        };
        let wanted = number(target).unwrap_or(0);
        let fits = |device: &&Self| number(device.target).is_some_and(|own| own <= wanted);
        DEVICES.iter().rev().find(fits).unwrap_or(&DEVICES[0])
    }

    /// Operations per second of a pipe.
    #[must_use]
    pub const fn rate(&self, pipe: Pipe) -> f64 {
        match pipe {
            Pipe::F32 => self.f32_flops,
            Pipe::F64 => self.f64_flops,
            Pipe::F16 => self.f16_flops,
            Pipe::TensorF64 => self.tensor_f64_flops,
            Pipe::TensorTf32 => self.tensor_tf32_flops,
            Pipe::TensorF16 => self.tensor_f16_flops,
            Pipe::Tensor8 => self.tensor_8bit_flops,
        }
    }

    /// How many CTAs a multiprocessor holds at once.
    #[must_use]
    pub fn occupancy(&self, cta: Cta) -> Occupancy {
        let warps = cta.threads.div_ceil(32).max(1);
        let by_warps = self.warps / warps;
        let by_registers = cta.registers.map(|registers| {
            let per_warp = (registers.max(1) * 32).next_multiple_of(self.register_unit);
            let warps_held = self.registers / per_warp / self.warp_unit * self.warp_unit;
            warps_held / warps.next_multiple_of(self.warp_unit)
        });
        let shared =
            (cta.shared_bytes + self.reserved_shared_bytes).next_multiple_of(self.shared_unit);
        let limits = [
            (Limit::Ctas, self.ctas),
            (Limit::Warps, by_warps),
            (Limit::Registers, by_registers.unwrap_or(u32::MAX)),
            (Limit::Shared, self.shared_bytes / shared),
        ];
        let (limit, ctas) = limits.into_iter().min_by_key(|(_, ctas)| *ctas).unwrap_or(limits[0]);
        let share = f64::from(ctas * warps) / f64::from(self.warps);
        Occupancy { ctas, warps: ctas * warps, share, limit, registers: cta.registers }
    }
}

/// What a CTA takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cta {
    /// Threads.
    pub threads: u32,
    /// Registers of a thread, as ptxas reports them; `None` leaves them out of account.
    pub registers: Option<u32>,
    /// Bytes of shared memory, static and dynamic.
    pub shared_bytes: u32,
}

/// What limits the number of CTAs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Limit {
    /// Slots for CTAs.
    Ctas,
    /// Slots for warps.
    Warps,
    /// Registers.
    Registers,
    /// Shared memory.
    Shared,
}

/// CTAs and warps that a multiprocessor holds at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Occupancy {
    /// CTAs.
    pub ctas: u32,
    /// Warps.
    pub warps: u32,
    /// Warps as a part of those there is room for.
    pub share: f64,
    /// What keeps more from fitting.
    pub limit: Limit,
    /// Registers of a thread that were assumed, if any were.
    pub registers: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(target: &str, threads: u32, registers: u32, shared_bytes: u32) -> (u32, Limit) {
        let cta = Cta { threads, registers: Some(registers), shared_bytes };
        let found = Device::of(target).occupancy(cta);
        (found.ctas, found.limit)
    }

    #[test]
    fn occupancy_is_that_of_the_published_calculator() {
        assert_eq!(on("sm_80", 128, 32, 0), (16, Limit::Warps));
        assert_eq!(on("sm_80", 256, 64, 0), (4, Limit::Registers));
        assert_eq!(on("sm_80", 256, 255, 0), (1, Limit::Registers));
        assert_eq!(on("sm_80", 128, 32, 48 << 10), (3, Limit::Shared));
        assert_eq!(on("sm_90a", 384, 168, 200 << 10), (1, Limit::Registers));
        assert_eq!(on("sm_90a", 128, 32, 100 << 10), (2, Limit::Shared));
        assert_eq!(on("sm_90", 32, 16, 0), (32, Limit::Ctas));
        assert_eq!(on("sm_90", 1024, 128, 0), (0, Limit::Registers));
    }

    #[test]
    fn targets_find_their_device() {
        assert_eq!(Device::of("sm_90a").target, "sm_90");
        assert_eq!(Device::of("sm_89").target, "sm_80");
        assert_eq!(Device::of("sm_70").target, "sm_80");
        assert_eq!(Device::of("nonsense").target, "sm_80");
    }
}
