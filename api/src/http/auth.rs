//! Who may call: one bearer token for the host's backend, one for operators; others for figures and description, where they are asked for.
//!
//! A gate stands before all routes of its prefix, unknown ones too, and before any body is read. What passes carries a mark, and the
//! handlers ask for that mark: a route that is mounted without its gate answers nobody.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};
use metrics::{Metrics, labels::TokenScope};
use poem::{
    Request, RequestBody,
    http::{HeaderValue, header},
};
use poem_openapi::{
    ApiExtractor, ApiExtractorType, ExtractParamOptions,
    registry::{MetaSecurityScheme, Registry},
};

use super::{
    client,
    problem::{CLOSED, Problem, TOO_MANY_TRIES, UNAUTHORIZED},
};
use crate::{app::Token, quiet::Quiet};

/// Wrong tokens an address may send at once, and from then on within a minute.
const TRIES: NonZeroU32 = NonZeroU32::new(20).expect("not zero");
/// Addresses share this many counts, by a hash that nobody outside can foresee: however many there are, they take no more memory. Who shares
/// one with a guesser loses nothing, since a valid token is taken at any time.
const COUNTS: usize = 4096;

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// Wrong tokens by address. A valid token is never refused for them.
#[derive(Debug)]
pub(super) struct FailedTries<C: Clock = DefaultClock> {
    counts: Box<[Limiter<C>]>,
    hasher: RandomState,
    lines: Quiet,
}

impl Default for FailedTries {
    fn default() -> Self {
        Self::on(&DefaultClock::default())
    }
}

impl<C: Clock + Clone> FailedTries<C> {
    fn on(clock: &C) -> Self {
        let count = || RateLimiter::direct_with_clock(Quota::per_minute(TRIES), clock.clone());
        Self { counts: (0..COUNTS).map(|_| count()).collect(), hasher: RandomState::new(), lines: Quiet::default() }
    }

    /// Counts a wrong token; true where there were too many.
    fn count(&self, peer: Option<IpAddr>) -> bool {
        let hash = self.hasher.hash_one(peer.map(network));
        let index = usize::try_from(hash % COUNTS as u64).unwrap_or_default();
        self.counts[index].check().is_err()
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
    /// Who reads the figures.
    Scraper,
    /// Who reads the description of the API: whoever may call it.
    Reader,
}

impl Role {
    fn variable(self) -> &'static str {
        match self {
            Self::Host => "TRUEUP_API_TOKEN",
            Self::Operator => "TRUEUP_ADMIN_TOKEN",
            Self::Scraper => "TRUEUP_METRICS_TOKEN",
            Self::Reader => "TRUEUP_API_TOKEN or TRUEUP_ADMIN_TOKEN",
        }
    }

    fn scope(self) -> TokenScope {
        match self {
            Self::Host | Self::Reader => TokenScope::Api,
            Self::Operator => TokenScope::Admin,
            Self::Scraper => TokenScope::Metrics,
        }
    }

    /// How to ask for the token. People read the description with a browser, which asks them for a password.
    fn challenge(self, wrong: bool) -> &'static str {
        match (self, wrong) {
            (Self::Reader, _) => {
                "Basic realm=\"trueup: the API or the admin token as the password\", charset=\"UTF-8\""
            }
            (_, false) => "Bearer realm=\"trueup\"",
            (_, true) => "Bearer realm=\"trueup\", error=\"invalid_token\"",
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
    /// Any of them opens it; without one it is closed.
    tokens: Arc<[Token]>,
    failed: Arc<FailedTries>,
    metrics: Arc<Metrics>,
}

impl Gate {
    pub(super) fn new(
        role: Role,
        tokens: impl IntoIterator<Item = Token>,
        failed: &Arc<FailedTries>,
        metrics: &Arc<Metrics>,
    ) -> Self {
        Self { role, tokens: tokens.into_iter().collect(), failed: Arc::clone(failed), metrics: Arc::clone(metrics) }
    }

    /// Lets a request with the right token pass.
    pub(super) fn admit(&self, request: &mut Request) -> Result<(), Problem> {
        let variable = self.role.variable();
        if self.tokens.is_empty() {
            return Err(Problem::new(
                CLOSED,
                format!("set {variable} and start again; without it nobody may call this"),
            ));
        }
        let given = bearer(request).map(str::to_owned);
        let given = given.or_else(|| (self.role == Role::Reader).then(|| password(request)).flatten());
        let Some(given) = given else {
            tracing::debug!(peer = client::shown(request), asked = variable, "refused a request without a token");
            let detail = format!("send `Authorization: Bearer <{variable}>`");
            return Err(self.challenge(Problem::new(UNAUTHORIZED, detail), false));
        };
        // Each is compared, so that the time tells nothing of which it was.
        if self.tokens.iter().fold(false, |right, token| right | token.matches(&given)) {
            request.set_data(Passed(self.role));
            return Ok(());
        }
        self.metrics.token_refused(self.role.scope());
        if self.failed.count(client::address(request)) {
            let detail = "too many wrong tokens came from this address; a right one is taken at any time";
            return Err(Problem::later(TOO_MANY_TRIES, detail, 60));
        }
        if let Some(unsaid) = self.failed.lines.may_say() {
            tracing::warn!(peer = client::shown(request), asked = variable, unsaid, "refused a wrong token");
        }
        let detail = format!("the token is not the one in {variable}");
        Err(self.challenge(Problem::new(UNAUTHORIZED, detail), true))
    }

    fn challenge(&self, problem: Problem, wrong: bool) -> Problem {
        problem.with(header::WWW_AUTHENTICATE, HeaderValue::from_static(self.role.challenge(wrong)))
    }
}

/// What follows the scheme in `Authorization`; the scheme's case does not matter (RFC 9110, 11.1).
fn credentials<'r>(request: &'r Request, wanted: &str) -> Option<&'r str> {
    let (scheme, rest) = request.header(header::AUTHORIZATION)?.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case(wanted).then(|| rest.trim())
}

/// The token of `Authorization: Bearer …`.
fn bearer(request: &Request) -> Option<&str> {
    credentials(request, "bearer")
}

/// The password of `Authorization: Basic …`, whatever the name before it.
fn password(request: &Request) -> Option<String> {
    let pair = String::from_utf8(STANDARD.decode(credentials(request, "basic")?).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
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
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn an_address_has_twenty_failures_at_once_and_twenty_a_minute_from_then_on() {
        let clock = FakeRelativeClock::default();
        let failed = FailedTries::on(&clock);
        let peer = Some(IpAddr::from([192, 0, 2, 1]));
        assert!((0..TRIES.get()).all(|_| !failed.count(peer)));
        assert!(failed.count(peer));
        let others = (2..=255).filter(|last| !failed.count(Some(IpAddr::from([192, 0, 2, *last])))).count();
        assert!(others > 240, "others are counted by themselves, but for a few: {others}");
        clock.advance(Duration::from_mins(1));
        assert_eq!((0..100).filter(|_| !failed.count(peer)).count(), 20);
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
    fn ever_new_addresses_are_limited_together_in_the_end() {
        let clock = FakeRelativeClock::default();
        let failed = FailedTries::on(&clock);
        let addresses = (0..400_000_u32).map(|n| Some(IpAddr::from((0x0a00_0000 + n).to_be_bytes())));
        let taken = addresses.filter(|peer| !failed.count(*peer)).count();
        assert!(taken <= COUNTS * TRIES.get() as usize, "{taken}");
    }

    #[test]
    fn the_scheme_may_have_any_case_and_people_give_the_token_as_their_password() {
        let request = |value: &str| Request::builder().header("Authorization", value).finish();
        assert_eq!(bearer(&request("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&request("bearer  abc ")), Some("abc"));
        assert_eq!(bearer(&request("Basic abc")), None);
        assert_eq!(bearer(&request("abc")), None);
        let basic = |pair: &str| password(&request(&format!("basic {}", STANDARD.encode(pair))));
        assert_eq!(basic("me:abc:d").as_deref(), Some("abc:d"));
        assert_eq!(basic(":abc").as_deref(), Some("abc"));
        assert_eq!(basic("abc"), None);
        assert_eq!(password(&request("Basic %%%")), None);
    }
}
