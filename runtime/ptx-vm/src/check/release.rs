//! Release and acquire: what threads hand on through strong accesses and fences.
//!
//! # How
//! - A release leaves what its thread knows at the location it writes, for those within its scope.
//! - An acquire takes up what lies there and came from within its own scope; a relaxed load notes it for
//!   the next fence, which takes up what came from within the scope of the fence.
//! - Scopes are told apart by what lies within them: the CTA, the cluster, the device.
//!
//! # Invariants
//! - At a location lies one snapshot for each CTA of the running cluster, one for the cluster and one for
//!   the device, however often something is released there.

use super::clock::Snapshot;
use super::{Access, Checker, Location};
use crate::execute::{Place, Touch, Warp};
use crate::module::{Order, Scope};
use std::collections::{BTreeMap, HashMap};

/// What a thread's fences and relaxed loads left.
#[derive(Clone, Debug, Default)]
pub(super) struct Fences {
    /// What the last releasing fence covers, and for whom.
    released: Option<(Snapshot, Scope)>,
    /// What relaxed loads saw, for the next acquiring fence, by the scope that holds both ends.
    seen: [Snapshot; 3],
}

/// What the running cluster released at a location.
#[derive(Clone, Debug, Default)]
struct Near {
    /// By CTA, plus one: for any scope.
    ctas: BTreeMap<u32, Snapshot>,
    /// For the cluster at least.
    cluster: Snapshot,
}

/// What was released, by location.
#[derive(Debug, Default)]
struct Locations {
    near: HashMap<Location, Near>,
    /// In global memory, for the whole device: kept from cluster to cluster.
    far: HashMap<Location, Snapshot>,
}

impl Locations {
    /// What lies at a location for a CTA, no further off than `reach`, by the scope that holds both ends.
    fn at(
        &self,
        location: Location,
        cta: u32,
        reach: Scope,
    ) -> impl Iterator<Item = (Scope, &Snapshot)> {
        let near = self.near.get(&location);
        let found = [
            (Scope::Cta, near.and_then(|near| near.ctas.get(&cta))),
            (Scope::Cluster, near.map(|near| &near.cluster)),
            (Scope::Device, self.far.get(&location)),
        ];
        let within = found.into_iter().filter(move |(scope, _)| *scope <= reach);
        within.filter_map(|(scope, snapshot)| Some((scope, snapshot?)))
    }

    fn publish(&mut self, location: Location, snapshot: &Snapshot, scope: Scope) {
        let near = self.near.entry(location).or_default();
        near.ctas.entry(snapshot.cta()).or_default().merge(snapshot);
        if scope >= Scope::Cluster {
            near.cluster.merge(snapshot);
        }
        if scope == Scope::Device && !is_shared(location) {
            self.far.entry(location).or_default().merge(snapshot);
        }
    }

    /// A store begins anew; a read-modify-write continues what was released before.
    fn clear(&mut self, location: Location) {
        self.near.remove(&location);
        self.far.remove(&location);
    }
}

/// What was released at locations, and what threads have seen of it.
#[derive(Debug, Default)]
pub(super) struct Releases {
    /// Per CTA and thread.
    fences: Vec<HashMap<usize, Fences>>,
    locations: Locations,
}

impl Releases {
    /// What the device released so far, for a cluster of `ranks` CTAs.
    pub(super) fn begin_cluster(self, ranks: usize) -> Self {
        let locations = Locations { near: HashMap::new(), far: self.locations.far };
        Self { fences: vec![HashMap::new(); ranks], locations }
    }

    /// What the last releasing fence of a thread covers for the cluster.
    pub(super) fn fenced_for_cluster(&self, rank: u32, thread: usize) -> Option<&Snapshot> {
        let (snapshot, scope) = self.fences[rank as usize].get(&thread)?.released.as_ref()?;
        (*scope >= Scope::Cluster).then_some(snapshot)
    }
}

/// Marks a location in shared memory.
const SHARED: u32 = 1 << 31;

fn is_shared(location: Location) -> bool {
    location.0 & SHARED != 0
}

impl Checker {
    /// A strong access hands on what was released at its place, and takes it up.
    pub(super) fn synchronise(&mut self, rank: u32, thread: usize, access: Access) {
        let location = match access.place {
            Place::Shared(rank, offset) => (rank | SHARED, offset),
            Place::Buffer(index, offset) => (index, offset),
            _ => return,
        };
        let clocks = &mut self.clocks[rank as usize];
        if access.touch != Touch::Write {
            let Releases { fences, locations } = &mut self.releases;
            for (within, snapshot) in locations.at(location, clocks.cta, access.scope) {
                if access.order.acquires() {
                    clocks.acquire(thread, snapshot);
                } else {
                    let fences = fences[rank as usize].entry(thread).or_default();
                    fences.seen[within as usize].merge(snapshot);
                }
            }
        }
        if access.touch == Touch::Read {
            return;
        }
        let published = if access.order.releases() {
            Some((clocks.release(thread), access.scope))
        } else {
            let fences = self.releases.fences[rank as usize].get(&thread);
            let released = fences.and_then(|fences| fences.released.clone());
            released.map(|(snapshot, scope)| (snapshot, scope.min(access.scope)))
        };
        if access.touch == Touch::Write {
            self.releases.locations.clear(location);
        }
        if let Some((snapshot, scope)) = published {
            self.releases.locations.publish(location, &snapshot, scope);
        }
    }

    /// `fence` and `membar`.
    pub(crate) fn fence(&mut self, warp: &Warp, active: u32, order: Order, scope: Scope) {
        if !self.checks.races {
            return;
        }
        let clocks = &mut self.clocks[warp.cta as usize];
        for thread in super::threads_of(warp.index, active) {
            let fences = self.releases.fences[warp.cta as usize].entry(thread).or_default();
            if order.acquires() {
                for seen in &mut fences.seen[..=scope as usize] {
                    clocks.acquire(thread, &std::mem::take(seen));
                }
            }
            if order.releases() {
                fences.released = Some((clocks.release(thread), scope));
            }
        }
    }
}
