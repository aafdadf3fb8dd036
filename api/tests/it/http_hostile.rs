//! Requests as nobody would write them, to every address, with the right tokens: they are refused or answered, and never a fault.
//!
//! `TRUEUP_REQUEST_CASES` sets how many; `scripts/proof.d/parsers` sends more of them.

use std::sync::Arc;

use api::http;
use poem::http::{HeaderValue, Method};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use testkit::on_each;

use crate::http_server::{ADMIN_TOKEN, API_TOKEN, Server, WEBHOOK, signature, tell};

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

fn odd_text() -> impl Strategy<Value = String> {
    let known = select(vec![
        "",
        " ",
        "0",
        "-1",
        "1e999",
        "99999999999999999999",
        "'; DROP TABLE users; --",
        "\" OR 1=1 --",
        "%00",
        "\u{0}",
        "../../etc/passwd",
        "null",
        "true",
        "ß",
        "𝄞",
        "a@b",
        "user@example.com",
        "2026-02-30T00:00:00Z",
        "-262143-01-01T00:00:00Z",
        "+262142-12-31T23:59:59Z",
        ADA,
        "evt_1",
        "pro",
        "applied",
        "failed",
        "\u{202e}",
        "{}",
        "[]",
    ]);
    prop_oneof![5 => known.prop_map(str::to_owned), 1 => any::<String>(), 1 => (0_usize..9000).prop_map(|n| "x".repeat(n))]
}

fn json_text() -> impl Strategy<Value = String> {
    let key = select(vec![
        "email",
        "full_name",
        "id",
        "amount",
        "idempotency_key",
        "tier",
        "until",
        "reason",
        "status",
        "type",
        "mode",
        "limit",
        "user_id",
        "note",
        "x",
    ]);
    let leaf = prop_oneof![
        odd_text().prop_map(|text| serde_json::to_string(&text).unwrap_or_default()),
        any::<i64>().prop_map(|number| number.to_string()),
        select(vec!["null", "true", "1e400", "-0.0", "[]", "{}", "[[[[[[]]]]]]", "18446744073709551616"])
            .prop_map(str::to_owned),
    ];
    prop_oneof![
        6 => vec((key, leaf), 0..6).prop_map(|pairs| {
            let members: Vec<_> = pairs.iter().map(|(key, value)| format!("\"{key}\": {value}")).collect();
            format!("{{{}}}", members.join(", "))
        }),
        1 => odd_text(),
        1 => (1_usize..3000).prop_map(|levels| format!("{{\"a\": {}}}", "[".repeat(levels))),
    ]
}

#[derive(Debug, Clone)]
struct Hostile {
    route: Index,
    method: Index,
    other: Option<Method>,
    parameters: Vec<String>,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: String,
    signed: bool,
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let methods =
        vec![Method::GET, Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::HEAD];
    let parameter = prop_oneof![2 => Just(ADA.to_owned()), 2 => odd_text()];
    let names = vec![
        "limit", "cursor", "after", "status", "type", "user_id", "customer", "since", "until", "hours", "wait",
        "email", "tier", "kind", "job", "q", "x",
    ];
    let header = select(vec![
        "x-request-id",
        "x-forwarded-for",
        "origin",
        "content-type",
        "stripe-signature",
        "if-match",
        "accept",
        "range",
        "expect-x",
        "cookie",
        "content-encoding",
        "idempotency-key",
    ]);
    let value = prop_oneof![2 => odd_text().prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..80)];
    (
        any::<Index>(),
        any::<Index>(),
        proptest::option::weighted(0.1, select(methods)),
        vec(parameter, 3),
        vec((select(names), odd_text()), 0..4),
        vec((header, value), 0..5),
        json_text(),
        any::<bool>(),
    )
        .prop_map(|(route, method, other, parameters, query, headers, body, signed)| Hostile {
            route,
            method,
            other,
            parameters,
            query,
            headers,
            body,
            signed,
        })
}

/// As it may stand in an address.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut escaped, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
        escaped
    })
}

#[test]
fn no_request_whatever_it_holds_is_a_fault_of_the_server() {
    let cases: usize = std::env::var("TRUEUP_REQUEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(1500);
    on_each(move |database| async move {
        let server = Server::with(database, |app| {
            app.edge.trusted_proxies = Arc::from(["0.0.0.0/1".parse().expect("a network")]);
            app.edge.cors_origins = ["https://app.example.com".to_owned()].into();
        })
        .await;
        server.put_user(ADA, r#"{"email": "ada@example.com"}"#).await;
        let routes = http::addresses();
        let mut runner = TestRunner::deterministic();
        let strategy = hostile();
        let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
        for _ in 0..cases {
            let case = strategy.new_tree(&mut runner).expect("a case").current();
            let (route, methods) = &routes[case.route.index(routes.len())];
            // Mostly one that the address takes.
            let own = methods[case.method.index(methods.len())].parse::<Method>().expect("a method");
            let method = case.other.clone().unwrap_or(own);
            // Whoever waits for changes waits.
            if route == "/api/v1/changes" && case.query.iter().any(|(name, _)| *name == "wait") {
                continue;
            }
            let mut parameters = case.parameters.iter();
            let path: Vec<String> = route
                .split('/')
                .map(|part| {
                    if part.starts_with('{') {
                        escaped(parameters.next().map_or("", |text| text))
                    } else {
                        part.to_owned()
                    }
                })
                .collect();
            let query: Vec<_> = case.query.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
            let address = format!("{}?{}", path.join("/"), query.join("&"));
            let token = if route.starts_with("/api/v1/admin") { ADMIN_TOKEN } else { API_TOKEN };
            let mut request =
                server.client.request(method.clone(), &address).header("Authorization", format!("Bearer {token}"));
            for (name, value) in &case.headers {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    request = request.header(*name, value);
                }
            }
            if case.signed && route == WEBHOOK {
                request = request.header("Stripe-Signature", signature(&case.body));
            }
            let told = tell(request.body(case.body.clone())).await;
            *statuses.entry(told.status.as_u16()).or_default() += 1;
            assert!(
                told.status != 500 && told.status != 503 || route == "/readyz",
                "{} for {case:?} at {address}: {}",
                told.status,
                told.text
            );
        }
        assert!(statuses.keys().any(|status| *status == 200) && statuses.len() > 5, "{statuses:?}");
        // Nothing that was said became a statement.
        server.host_get(&format!("/api/v1/users/{ADA}")).await.assert_ok();
        server.operator_get("/api/v1/admin/webhooks").await.assert_ok();
    });
}
