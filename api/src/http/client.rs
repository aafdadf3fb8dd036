//! Who calls: the other end of the connection, or whom a proxy in front names, where it is one that is believed.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use poem::Request;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Mark of a request: whom it comes from.
#[derive(Debug, Clone, Copy)]
struct Client(IpAddr);

/// Finds out whom a request comes from, and marks it.
pub(super) fn mark(request: &mut Request, trusted: &[IpNet]) {
    let peer = request.remote_addr().as_socket_addr().map(SocketAddr::ip);
    if let Some(peer) = peer {
        let told = request.headers().get_all(FORWARDED_FOR).iter().rev().filter_map(|value| value.to_str().ok());
        let client = furthest(peer.to_canonical(), told.flat_map(|line| line.rsplit(',')), trusted);
        request.set_data(Client(client));
    }
}

/// Whom a request comes from; none where that cannot be known.
pub(super) fn address(request: &Request) -> Option<IpAddr> {
    request.data::<Client>().map(|client| client.0)
}

/// The same for the log.
pub(super) fn shown(request: &Request) -> String {
    address(request).map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}

/// Each proxy writes down from whom it took the request, at the end. So the word of the last is its own, and that of one before is worth
/// something only where all after it are believed.
fn furthest<'t>(peer: IpAddr, told: impl Iterator<Item = &'t str>, trusted: &[IpNet]) -> IpAddr {
    let believed = |address: &IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer;
    for text in told {
        if !believed(&client) {
            break;
        }
        let Some(before) = parse(text.trim()) else { break };
        client = before;
    }
    client
}

/// An address, with its port or without.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(peer: &str, told: &str, trusted: &[&str]) -> String {
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().expect("a network")).collect();
        furthest(peer.parse().expect("an address"), told.rsplit(','), &trusted).to_string()
    }

    #[test]
    fn only_proxies_that_are_believed_may_name_the_client_and_nobody_names_himself() {
        let proxies = ["10.0.0.0/8", "2001:db8::/32"];
        assert_eq!(of("192.0.2.1", "198.51.100.9", &proxies), "192.0.2.1", "a stranger's word is worth nothing");
        assert_eq!(of("10.0.0.1", "198.51.100.9", &[]), "10.0.0.1", "nobody is believed by default");
        assert_eq!(of("10.0.0.1", "198.51.100.9", &proxies), "198.51.100.9");
        // What the client wrote itself comes before what the first proxy wrote down.
        assert_eq!(of("10.0.0.1", "203.0.113.66, 198.51.100.9, 10.1.1.1", &proxies), "198.51.100.9");
        assert_eq!(of("2001:db8::1", "[2001:db8:1::5]:443", &["2001:db8::1/128"]), "2001:db8:1::5");
        assert_eq!(of("10.0.0.1", "198.51.100.9:5555", &proxies), "198.51.100.9");
        assert_eq!(of("10.0.0.1", "::ffff:198.51.100.9", &proxies), "198.51.100.9");
        for nonsense in ["", "unknown", "198.51.100.9 198.51.100.10", "_hidden", "999.1.1.1"] {
            assert_eq!(of("10.0.0.1", nonsense, &proxies), "10.0.0.1", "{nonsense}");
        }
    }
}
