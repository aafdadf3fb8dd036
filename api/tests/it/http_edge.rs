//! Who is let in, and what comes of those who are not: seen from outside, over every address there is.

use std::collections::BTreeSet;

use api::{
    app::{Edge, Figures, Token},
    config::edge::Docs,
    http,
};
use poem::{
    http::{Method, StatusCode},
    test::TestClient,
};
use serde_json::{Value, json};
use testkit::on_each;

use crate::http_server::{ADMIN_TOKEN, API_TOKEN, Server, WEBHOOK, tell};

const SCRAPER: &str = "scraper-token-of-its-own";
const METHODS: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH, Method::OPTIONS];

fn closed() -> Edge {
    Edge { figures: Figures::Behind(Token::new(SCRAPER)), docs: Docs::Token, ..Edge::default() }
}

/// What may answer without a token.
fn is_open(path: &str) -> bool {
    [WEBHOOK, "/healthz", "/readyz"].contains(&path)
}

fn base64(text: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(text)
}

#[test]
fn no_route_but_the_webhook_and_health_answers_without_its_token() {
    on_each(|database| async {
        let server = Server::with(database, |app| app.edge = closed()).await;
        // What is served is what is described, and the two pages.
        let document: Value = serde_json::from_str(&http::openapi_spec()).expect("a document");
        let described = document["paths"].as_object().expect("paths").keys().cloned();
        let described: BTreeSet<String> = described.chain(["/docs", "/openapi.json"].map(str::to_owned)).collect();
        let there: BTreeSet<String> = http::addresses().into_iter().map(|(path, _)| path).collect();
        assert_eq!(there, described);
        assert!(there.len() > 25, "{}", there.len());

        let basic = format!("Basic {}", base64("me:guess"));
        let credentials = [None, Some("Bearer "), Some("Bearer guess"), Some(&*basic), Some("guess")];
        for path in &there {
            let path = path.replace("{id}", "0f8fad5b-d9cb-469f-a165-70867728950e").replace('{', "x").replace('}', "");
            for method in &METHODS {
                for given in credentials {
                    let request = server.client.request(method.clone(), &path);
                    let request =
                        given.into_iter().fold(request, |request, given| request.header("Authorization", given));
                    let told = tell(request).await;
                    let refused = [StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&told.status);
                    let page = ["/docs", "/openapi.json"].contains(&&*path);
                    let allowed = refused || page && told.status == StatusCode::METHOD_NOT_ALLOWED;
                    assert!(allowed || is_open(&path), "{method} {path} with {given:?}: {}", told.status);
                    assert!(!(refused && is_open(&path)), "{method} {path} asks for a token");
                }
            }
        }
        // The token of one opens nothing of another.
        for (token, path) in [
            (API_TOKEN, "/api/v1/admin/webhooks"),
            (SCRAPER, "/api/v1/admin/webhooks"),
            (ADMIN_TOKEN, "/api/v1/users"),
            (SCRAPER, "/api/v1/changes"),
            (ADMIN_TOKEN, "/metrics"),
            (SCRAPER, "/docs"),
        ] {
            let told = tell(server.client.get(path).header("Authorization", format!("Bearer {token}"))).await;
            assert!([401, 429].contains(&told.status.as_u16()), "{token} at {path}: {}", told.status);
        }
        let figures = tell(server.client.get("/metrics").header("Authorization", format!("Bearer {SCRAPER}"))).await;
        assert_eq!(figures.status, StatusCode::OK);
        let wrong = figures.text.lines().filter(|line| line.starts_with("trueup_auth_failures_total{"));
        let wrong: Vec<_> = wrong.filter(|line| !line.ends_with(" 0")).collect();
        assert_eq!(wrong.len(), 3, "{wrong:?}");
    });
}

#[test]
fn an_address_that_nobody_foresaw_leads_past_no_gate() {
    on_each(|database| async {
        let server = Server::with(database, |app| app.edge = closed()).await;
        let prefixes = ["/api/v1/admin", "/api/v1/users", "/api/v1/changes", "/metrics", "/docs", "/openapi.json"];
        let tails = [
            "",
            "/",
            "//",
            "/.",
            "/..",
            "/../healthz",
            "/%2e%2e/healthz",
            "/%00",
            "/;x",
            "?a=b",
            "/none",
            "/none/none/none",
            "%2f",
        ];
        for prefix in prefixes {
            let spellings = [
                prefix.to_owned(),
                prefix.replacen('/', "//", 1),
                prefix.to_uppercase(),
                prefix.replacen("api", "%61pi", 1),
                format!("/healthz/..{prefix}"),
                format!("/api/v1/stripe/webhook/../../../..{prefix}"),
                format!("{WEBHOOK}{prefix}"),
            ];
            for path in spellings.iter().flat_map(|spelling| tails.map(|tail| format!("{spelling}{tail}"))) {
                for method in [Method::GET, Method::POST] {
                    let told = tell(server.client.request(method.clone(), &path)).await;
                    assert!(told.status.is_client_error(), "{method} {path}: {}", told.status);
                }
            }
        }
    });
}

#[test]
fn people_read_the_description_with_a_password_where_it_is_closed_and_nobody_where_it_is_off() {
    on_each(|database| async {
        let mut server = Server::with(database, |app| app.edge = closed()).await;
        let told = server.get("/docs").await;
        told.assert_problem(401, "unauthorized");
        assert!(told.header("www-authenticate").is_some_and(|value| value.starts_with("Basic ")));
        for token in [API_TOKEN, ADMIN_TOKEN] {
            for credentials in [format!("Basic {}", base64(&format!("anybody:{token}"))), format!("Bearer {token}")] {
                for path in ["/docs", "/openapi.json"] {
                    let told = tell(server.client.get(path).header("Authorization", &credentials)).await;
                    assert_eq!(told.status, StatusCode::OK, "{path}");
                }
            }
        }
        // A password opens the description only.
        let password = format!("Basic {}", base64(&format!("anybody:{ADMIN_TOKEN}")));
        tell(server.client.get("/api/v1/admin/webhooks").header("Authorization", password))
            .await
            .assert_problem(401, "unauthorized");
        server.restart(|app| app.edge.docs = Docs::Off);
        for path in ["/docs", "/openapi.json"] {
            server.host_get(path).await.assert_problem(404, "not-found");
        }
    });
}

#[test]
fn figures_that_have_a_listener_of_their_own_are_nowhere_else() {
    on_each(|database| async {
        let server = Server::with(database, |app| app.edge.figures = Figures::Elsewhere).await;
        server.get("/metrics").await.assert_problem(404, "not-found");
        let own = TestClient::new(http::figures(server.app.clone(), Some(Token::new(SCRAPER))));
        tell(own.get("/metrics")).await.assert_problem(401, "unauthorized");
        let told = tell(own.get("/metrics").header("Authorization", format!("Bearer {SCRAPER}"))).await;
        assert!(told.status == StatusCode::OK && told.text.contains("trueup_build_info"));
        for path in ["/healthz", "/docs", "/api/v1/users", WEBHOOK] {
            tell(own.get(path)).await.assert_problem(404, "not-found");
        }
        let open = TestClient::new(http::figures(server.app.clone(), None));
        assert_eq!(tell(open.get("/metrics")).await.status, StatusCode::OK);
    });
}

#[test]
fn pages_of_other_origins_are_let_in_only_where_they_are_named() {
    const KNOWN: &str = "https://app.example.com";
    on_each(|database| async {
        let mut server = Server::new(database).await;
        let preflight = async |server: &Server, origin: &'static str| {
            let request = server.client.options("/api/v1/users").header("Origin", origin);
            let request = request.header("Access-Control-Request-Method", "PUT");
            tell(request.header("Access-Control-Request-Headers", "authorization")).await
        };
        let allowed = |told: &crate::http_server::Told| told.header("access-control-allow-origin").map(str::to_owned);
        // Closed by default.
        let told = preflight(&server, KNOWN).await;
        assert_eq!((told.status.as_u16(), allowed(&told)), (401, None));

        server.restart(|app| app.edge.cors_origins = [KNOWN.to_owned()].into());
        let told = preflight(&server, KNOWN).await;
        assert_eq!((told.status.as_u16(), allowed(&told).as_deref()), (204, Some(KNOWN)));
        assert!(told.header("access-control-allow-headers").is_some_and(|names| names.contains("authorization")));
        assert_eq!(told.header("access-control-allow-credentials"), None);
        for stranger in
            ["https://evil.example", "https://app.example.com.evil.example", "http://app.example.com", "null"]
        {
            let told = preflight(&server, stranger).await;
            assert_eq!((told.status.as_u16(), allowed(&told)), (401, None), "{stranger}");
        }
        // The page sees the answer, a refusal as well, and caches keep apart what is for whom.
        let told = tell(server.client.get("/api/v1/users").header("Origin", KNOWN)).await;
        assert_eq!((told.status.as_u16(), allowed(&told).as_deref()), (401, Some(KNOWN)));
        assert_eq!(told.header("vary"), Some("Origin"));
    });
}

#[test]
fn a_request_keeps_the_id_it_came_with_and_a_problem_tells_it() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for path in ["/none", "/api/v1/users", WEBHOOK] {
            let told = tell(server.client.get(path).header("X-Request-Id", "edge-7f3a.1")).await;
            assert_eq!(told.header("x-request-id"), Some("edge-7f3a.1"), "{path}");
            assert_eq!(told.json()["request_id"], "edge-7f3a.1", "{path}");
        }
        let told = tell(server.client.get("/none").header("X-Request-Id", "what is \"this\"")).await;
        let made = told.header("x-request-id").unwrap_or_default().to_owned();
        assert_eq!(made.len(), 36, "{made}");
        assert_eq!(told.json()["request_id"], made.as_str());
    });
}

#[test]
fn a_wrong_signature_costs_no_work_of_the_database() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let event =
            json!({ "id": "evt_1", "object": "event", "type": "invoice.paid", "created": 1, "data": { "object": {} } });
        assert_eq!(server.deliver(&event).await.status, StatusCode::OK);
        // Whatever needs the database fails from now on.
        server.lose_database().await;
        for number in 0..200 {
            let body = json!({ "id": format!("evt_{number}"), "type": "invoice.paid" }).to_string();
            let request = server.client.post(WEBHOOK).header("Stripe-Signature", "t=1,v1=00").body(body);
            let told = tell(request).await;
            assert_eq!(told.status, StatusCode::BAD_REQUEST, "{}", told.text);
        }
        let other =
            json!({ "id": "evt_2", "object": "event", "type": "invoice.paid", "created": 1, "data": { "object": {} } });
        server.deliver(&other).await.assert_problem(503, "not-stored");
    });
}
