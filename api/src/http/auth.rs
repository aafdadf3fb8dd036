//! Who may call: one bearer token for the host's backend, one for operators.
//!
//! A gate stands before all routes of its prefix, unknown ones too, and before any body is read. What passes carries a mark, and the
//! handlers ask for that mark: a route that is mounted without its gate answers nobody.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use poem::{
    Request, RequestBody,
    http::{HeaderValue, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};

use super::problem::{CLOSED, Problem, TOO_MANY_TRIES, UNAUTHORIZED};
use crate::app::Token;

/// Wrong tokens an address may send within [`WINDOW`].
const MAX_FAILURES: u32 = 20;
const WINDOW: Duration = Duration::from_mins(1);
/// Addresses that are counted one by one; beyond, all others share one count.
const MAX_PEERS: usize = 10_000;

/// Wrong tokens by address. A valid token is never refused for them.
#[derive(Debug, Default)]
pub(super) struct FailedTries(Mutex<HashMap<Option<IpAddr>, Tally>>);

#[derive(Debug)]
struct Tally {
    since: Instant,
    failures: u32,
}

impl FailedTries {
    /// Counts a wrong token; true where there were too many.
    fn count(&self, peer: Option<IpAddr>, now: Instant) -> bool {
        let fresh = |tally: &Tally| now.duration_since(tally.since) < WINDOW;
        let mut tallies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut peer = peer.map(network);
        if tallies.len() >= MAX_PEERS && !tallies.contains_key(&peer) {
            tallies.retain(|_, tally| fresh(tally));
            if tallies.len() >= MAX_PEERS {
                peer = None;
            }
        }
        let tally = tallies.entry(peer).or_insert(Tally { since: now, failures: 0 });
        if !fresh(tally) {
            *tally = Tally { since: now, failures: 0 };
        }
        tally.failures = tally.failures.saturating_add(1);
        tally.failures > MAX_FAILURES
    }
}

/// Whoever has one address of IPv6 has the whole /64 around it.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Whose token a gate asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Host,
    Operator,
}

impl Role {
    fn variable(self) -> &'static str {
        match self {
            Self::Host => "TRUEUP_API_TOKEN",
            Self::Operator => "TRUEUP_ADMIN_TOKEN",
        }
    }
}

/// The mark of a request that passed its gate.
#[derive(Debug, Clone, Copy)]
struct Passed(Role);

/// Stands before the routes of one role.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    role: Role,
    token: Option<Token>,
    failed: Arc<FailedTries>,
}

impl Gate {
    pub(super) fn new(role: Role, token: Option<Token>, failed: &Arc<FailedTries>) -> Self {
        Self { role, token, failed: Arc::clone(failed) }
    }

    /// Lets a request with the right token pass.
    pub(super) fn admit(&self, request: &mut Request) -> Result<(), Problem> {
        let variable = self.role.variable();
        let Some(token) = &self.token else {
            return Err(Problem::new(
                CLOSED,
                format!("set {variable} and start again; without it nobody may call this"),
            ));
        };
        let Some(given) = bearer(request) else {
            let detail = format!("send `Authorization: Bearer <{variable}>`");
            return Err(challenge(Problem::new(UNAUTHORIZED, detail), "Bearer realm=\"trueup\""));
        };
        if token.matches(given) {
            request.set_data(Passed(self.role));
            return Ok(());
        }
        let peer = request.remote_addr().as_socket_addr().map(std::net::SocketAddr::ip);
        if self.failed.count(peer, Instant::now()) {
            let detail = "too many wrong tokens came from this address; a right one is taken at any time";
            return Err(Problem::later(TOO_MANY_TRIES, detail, 60));
        }
        tracing::warn!(peer = super::observe::peer(request), asked = variable, "refused a wrong token");
        let detail = format!("the token is not the one in {variable}");
        Err(challenge(Problem::new(UNAUTHORIZED, detail), "Bearer realm=\"trueup\", error=\"invalid_token\""))
    }
}

fn challenge(problem: Problem, challenge: &'static str) -> Problem {
    problem.with(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

/// The token of `Authorization: Bearer …`; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(request: &Request) -> Option<&str> {
    let (scheme, token) = request.header(header::AUTHORIZATION)?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

macro_rules! mark {
    ($(#[$doc:meta])* $name:ident, $role:expr, $text:literal) => {
        $(#[$doc])*
        pub(super) struct $name;

        impl<'a> ApiExtractor<'a> for $name {
            const TYPES: &'static [ApiExtractorType] = &[ApiExtractorType::SecurityScheme];
            type ParamType = ();
            type ParamRawType = ();

            fn register(registry: &mut Registry) {
                registry.create_security_scheme(
                    stringify!($name),
                    MetaSecurityScheme {
                        ty: "http",
                        description: Some($text),
                        name: None,
                        key_in: None,
                        scheme: Some("bearer"),
                        bearer_format: None,
                        flows: None,
                        openid_connect_url: None,
                    },
                );
            }

            fn security_schemes() -> Vec<&'static str> {
                vec![stringify!($name)]
            }

            async fn from_request(
                request: &'a Request,
                _: &mut RequestBody,
                _: ExtractParamOptions<Self::ParamType>,
            ) -> poem::Result<Self> {
                match request.data::<Passed>() {
                    Some(Passed(role)) if *role == $role => Ok(Self),
                    _ => Err(Problem::new(UNAUTHORIZED, "the request came past its gate").into()),
                }
            }
        }
    };
}

mark!(
    /// Asks for the mark of the host's gate.
    ApiToken, Role::Host, "The token in TRUEUP_API_TOKEN, for the host's backend."
);
mark!(
    /// Asks for the mark of the operators' gate.
    AdminToken, Role::Operator, "The token in TRUEUP_ADMIN_TOKEN, for operators."
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_twenty_failures_a_minute_and_then_a_new_minute() {
        let failed = FailedTries::default();
        let (peer, other) = (Some(IpAddr::from([192, 0, 2, 1])), Some(IpAddr::from([192, 0, 2, 2])));
        let start = Instant::now();
        assert!((0..MAX_FAILURES).all(|_| !failed.count(peer, start)));
        assert!(failed.count(peer, start));
        assert!(!failed.count(other, start));
        assert!(!failed.count(peer, start + WINDOW));
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_their_count() {
        let a: IpAddr = "2001:db8::1".parse().expect("an address");
        let b: IpAddr = "2001:db8::ffff:1".parse().expect("an address");
        let c: IpAddr = "2001:db8:0:1::1".parse().expect("an address");
        assert_eq!(network(a), network(b));
        assert_ne!(network(a), network(c));
        assert_eq!(network("::ffff:192.0.2.1".parse().expect("an address")), IpAddr::from([192, 0, 2, 1]));
    }

    #[test]
    fn ever_new_addresses_take_no_more_memory_and_share_one_count() {
        let failed = FailedTries::default();
        let now = Instant::now();
        let addresses = (0..=u32::try_from(MAX_PEERS).expect("a small number") + MAX_FAILURES)
            .map(|n| Some(IpAddr::from((0x0a00_0000 + n).to_be_bytes())));
        assert!(addresses.map(|peer| failed.count(peer, now)).last() == Some(true));
        assert!(failed.0.lock().expect("nobody panicked").len() <= MAX_PEERS + 1);
    }

    #[test]
    fn the_scheme_may_have_any_case() {
        let request = |value: &str| Request::builder().header("Authorization", value).finish();
        assert_eq!(bearer(&request("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&request("bearer  abc ")), Some("abc"));
        assert_eq!(bearer(&request("Basic abc")), None);
        assert_eq!(bearer(&request("abc")), None);
    }
}
