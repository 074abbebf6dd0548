//! Rank 0 serves the rendezvous where nobody else does.

use std::fs::File;
use std::io::{ErrorKind, Read};

use super::{CommError, Obstacle};
use crate::comm::rendezvous::{Meeting, Server};

/// A word that cannot be guessed.
///
/// # Errors
/// A system without random numbers.
pub fn token() -> std::io::Result<String> {
    let mut bytes = [0u8; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Serves the rendezvous that rank 0 was told of, if that is an address of this machine that nobody
/// serves at yet.
pub(super) fn at(meeting: &Meeting, size: u32) -> Result<Option<Server>, CommError> {
    match Server::start(&meeting.address, &meeting.token, (Some(0), size)) {
        Ok(server) => Ok(Some(server)),
        Err(error)
            if matches!(error.kind(), ErrorKind::AddrInUse | ErrorKind::AddrNotAvailable) =>
        {
            Ok(None)
        }
        Err(error) => Err(cannot(&meeting.address, &error)),
    }
}

pub(super) fn cannot(address: &str, error: &std::io::Error) -> CommError {
    CommError::Refused {
        why: Obstacle::Environment,
        what: format!("rank 0 cannot serve a rendezvous at {address}: {error}"),
        help: "name another one with `PERILUNE_RENDEZVOUS` and `PERILUNE_TOKEN`".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_0_serves_where_nobody_does_and_only_there() {
        let server = Server::start("127.0.0.1:0", "other", (None, 2)).expect("a port");
        let own = |address: String| Meeting { address, token: "word".to_owned() };
        let taken = own(format!("127.0.0.1:{}", server.address().port()));
        assert!(at(&taken, 2).expect("no error").is_none());
        // An address that is kept for documentation, so no machine has it.
        assert!(at(&own("198.51.100.7:4000".to_owned()), 2).expect("no error").is_none());
        let free = at(&own("127.0.0.1:0".to_owned()), 2).expect("no error");
        assert!(free.is_some_and(|server| server.here().is_empty()));
    }
}
