//! How rank 0 tells the others of a rendezvous that it serves: at which addresses, under which word.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::CommError;
use super::serve::{cannot, token};
use crate::comm::rendezvous::{Meeting, Server};

/// Bytes in which [`announce`] fits.
pub(super) const ANNOUNCED: usize = 1024;

/// Serves a rendezvous at any port of all of this machine's addresses.
pub(super) fn anywhere(size: u32) -> Result<(Server, Meeting), CommError> {
    let all = "all addresses of this machine";
    let token = token().map_err(|error| cannot(all, &error))?;
    let start = |address| Server::start(address, &token, (Some(0), size));
    let server = start("[::]:0").or_else(|_| start("0.0.0.0:0"));
    let server = server.map_err(|error| cannot(all, &error))?;
    let port = server.address().port();
    let own: Vec<String> =
        addresses().into_iter().map(|own| SocketAddr::new(own, port).to_string()).collect();
    Ok((server, Meeting { address: own.join(","), token }))
}

/// What rank 0 tells the others, in bytes of one length; addresses that do not fit are left out.
pub(super) fn announce(meeting: &Meeting) -> [u8; ANNOUNCED] {
    let mut text = format!("{}\n{}", meeting.token, meeting.address);
    while text.len() > ANNOUNCED {
        text.truncate(text.rfind(',').unwrap_or(ANNOUNCED));
    }
    let mut bytes = [0; ANNOUNCED];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

/// The reverse of [`announce`].
pub(super) fn announced(bytes: &[u8; ANNOUNCED]) -> Option<Meeting> {
    let text = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    let (token, address) = text.split_once('\n')?;
    Some(Meeting { address: address.to_owned(), token: token.to_owned() })
}

/// This machine's addresses that others may reach, as the system lists them; where there are none,
/// the one that only this machine reaches.
fn addresses() -> Vec<IpAddr> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let mut own = local_v4(&read("/proc/net/fib_trie"));
    own.extend(local_v6(&read("/proc/net/if_inet6")));
    if own.is_empty() {
        own.push(Ipv4Addr::LOCALHOST.into());
    }
    own
}

/// Addresses of a routing trie that end at this machine: `|-- ADDRESS`, below it `/32 host LOCAL`.
fn local_v4(trie: &str) -> Vec<IpAddr> {
    let mut own = Vec::new();
    let mut last = None;
    for line in trie.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = last.filter(|address| !address.is_loopback())
            && !own.contains(&IpAddr::V4(address))
        {
            own.push(address.into());
        }
    }
    own
}

/// Addresses of interfaces whose scope is the whole network: address in hex, index, length, scope.
fn local_v6(interfaces: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut fields = line.split_whitespace();
        let (address, scope) = (fields.next()?, fields.nth(2)?);
        let bits = u128::from_str_radix(address, 16).ok()?;
        (scope == "00").then(|| Ipv6Addr::from_bits(bits).into())
    };
    interfaces.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 127.0.0.0
        /8 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 10.77.0.0
        /24 link UNICAST
     |-- 10.77.0.1
        /32 host LOCAL
     |-- 10.77.0.255
        /32 link BROADCAST
Local:
     |-- 10.77.0.1
        /32 host LOCAL
     |-- 192.168.7.3
        /32 host LOCAL
";
    const INTERFACES: &str = "\
fe80000000000000004200fffe000002 02 40 20 80     eth0
20010db8000000000000000000000001 02 40 00 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
";

    #[test]
    fn addresses_that_others_may_reach_are_found_once() {
        let v4: Vec<String> = local_v4(TRIE).iter().map(ToString::to_string).collect();
        assert_eq!(v4, ["10.77.0.1", "192.168.7.3"]);
        let v6: Vec<String> = local_v6(INTERFACES).iter().map(ToString::to_string).collect();
        assert_eq!(v6, ["2001:db8::1"]);
        assert_eq!((local_v4("x\n|-- y"), local_v6("zz 1 2 00\n")), (vec![], vec![]));
        assert!(!addresses().is_empty());
    }

    #[test]
    fn what_is_announced_is_understood_as_far_as_it_fits() {
        let meeting = |n: usize| Meeting {
            address: vec!["10.77.0.1:40000"; n].join(","),
            token: token().expect("random numbers"),
        };
        let few = meeting(3);
        assert_eq!(announced(&announce(&few)), Some(few));
        let many = meeting(1000);
        let heard = announced(&announce(&many)).expect("some of it");
        assert!(heard.token == many.token && many.address.starts_with(&heard.address));
        assert!(heard.address.ends_with(":40000"));
        assert_eq!(announced(&[0; ANNOUNCED]), None);
        assert_ne!(meeting(0).token, many.token);
    }

    #[test]
    fn a_rendezvous_of_rank_0_is_told_by_its_own_port() {
        let (server, meeting) = anywhere(2).expect("a port");
        assert!(meeting.address.ends_with(&format!(":{}", server.address().port())));
    }
}
