//! Which offer fits a wish.

use crate::{MicroUsd, Offer};

/// What a renter wants at least, and pays at most.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// GPUs, at least.
    pub gpus_min: usize,
    /// Part of the GPUs' name, compared without case.
    pub gpu_name: Option<String>,
    /// Memory of each GPU in bytes, at least.
    pub gpu_memory_bytes_min: u64,
    /// Logical processors, at least.
    pub cores_min: u32,
    /// Main memory in bytes, at least.
    pub memory_bytes_min: u64,
    /// The price, at most.
    pub price_per_hour_max: Option<MicroUsd>,
}

impl Wish {
    /// Whether an offer meets every point and is free.
    #[must_use]
    pub fn fits(&self, offer: &Offer) -> bool {
        let wanted_name = self.gpu_name.as_deref().map(str::to_ascii_lowercase);
        let good_gpus = offer.machine.gpus.iter().filter(|gpu| {
            let named =
                wanted_name.as_deref().is_none_or(|n| gpu.name.to_ascii_lowercase().contains(n));
            named && gpu.memory_bytes >= self.gpu_memory_bytes_min
        });
        let asks_for_gpu = wanted_name.is_some() || self.gpu_memory_bytes_min > 0;
        let gpus_min = self.gpus_min.max(usize::from(asks_for_gpu));
        offer.available
            && good_gpus.count() >= gpus_min
            && offer.machine.cores >= self.cores_min
            && offer.machine.memory_bytes >= self.memory_bytes_min
            && self.price_per_hour_max.is_none_or(|max| offer.price_per_hour <= max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conditions, Gpu, Machine, RuntimeKind};

    /// A wish that is read wrongly rents a machine that the renter cannot use, and bills it.
    #[test]
    fn every_point_counts() {
        let gpu =
            Gpu { uuid: "GPU-1".to_owned(), name: "NVIDIA H100".to_owned(), memory_bytes: 80 };
        let machine = Machine {
            cores: 8,
            memory_bytes: 64,
            gpus: vec![gpu.clone(), gpu],
            ..Machine::default()
        };
        let offer = Offer {
            id: "machine".parse().unwrap(),
            machine,
            price_per_hour: MicroUsd(2_000_000),
            images: Vec::new(),
            runtime: RuntimeKind::Docker,
            available: true,
            conditions: Conditions::default(),
        };
        let any = Wish::default();
        assert!(any.fits(&offer));
        assert!(
            Wish { gpu_name: Some("h100".to_owned()), gpus_min: 2, ..Wish::default() }.fits(&offer)
        );
        assert!(!Wish { gpu_name: Some("h200".to_owned()), ..Wish::default() }.fits(&offer));
        assert!(!Wish { gpu_memory_bytes_min: 81, ..Wish::default() }.fits(&offer));
        assert!(!Wish { gpus_min: 3, ..Wish::default() }.fits(&offer));
        assert!(!Wish { cores_min: 9, ..Wish::default() }.fits(&offer));
        assert!(!Wish { memory_bytes_min: 65, ..Wish::default() }.fits(&offer));
        assert!(!Wish { price_per_hour_max: Some(MicroUsd(1)), ..Wish::default() }.fits(&offer));
        assert!(!any.fits(&Offer { available: false, ..offer }));
    }
}
