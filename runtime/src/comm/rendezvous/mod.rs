//! Where the ranks of a job meet, behind a TCP port: a small store of keys and values, and the place
//! where every rank says that it lives and where it stands.
//!
//! `launch` serves it for the ranks it starts; where nobody does, rank 0.
//!
//! # Invariants
//! - A process without the token learns nothing and changes nothing.
//! - What clients send is bounded: frames, keys, connections, what a rank tells.
//! - A get and a join wait no longer than told.

mod frame;
mod client;
mod server;

pub use client::Client;
pub use frame::Heard;
pub use server::Server;

/// Where the ranks of a job meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// `host:port`.
    pub address: String,
    /// The word that lets a process in.
    pub token: String,
}

/// A rank's stay at a rendezvous at which all ranks of its job have been.
#[derive(Debug)]
pub struct Met {
    /// Its connection.
    pub client: Client,
    /// The rendezvous itself, where the rank serves it.
    pub server: Option<Server>,
    /// The machine of every rank.
    pub hosts: Vec<String>,
}

#[cfg(test)]
mod tests;
