//! Tokens, problems, and what is the same for every route.

use std::sync::Arc;

use futures::stream;
use poem::{Body, http::Method, http::StatusCode};
use serde_json::{Value, json};
use testkit::{TestDb, kinds, on_each};

use crate::http_server::{Server, WEBHOOK, host, operator, tell};

const ADA: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";

#[test]
fn without_a_configured_token_the_routes_are_closed_and_say_which_variable_opens_them() {
    on_each(|database| async {
        let server = Server::with(database, |app| (app.api_token, app.admin_token) = (None, None)).await;
        for (path, variable) in [
            (format!("/api/v1/users/{ADA}"), "TRUEUP_API_TOKEN"),
            ("/api/v1/admin/webhooks".to_owned(), "TRUEUP_ADMIN_TOKEN"),
            ("/api/v1/admin/none".to_owned(), "TRUEUP_ADMIN_TOKEN"),
        ] {
            let problem = server.operator_get(&path).await.assert_problem(403, "closed");
            assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(variable)), "{problem}");
        }
        server.get("/healthz").await;
        assert_eq!(server.deliver(&json!({"id": "evt_1", "type": "invoice.paid"})).await.status, StatusCode::OK);
    });
}

#[test]
fn every_address_under_a_prefix_asks_for_its_token_unknown_ones_too() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for path in [
            "/api/v1/admin",
            "/api/v1/admin/",
            "/api/v1/admin/webhooks",
            "/api/v1/admin/webhooks/evt_1",
            "/api/v1/admin/none",
            "/api/v1/admin/../users",
            "/api/v1/users",
            "/api/v1/users/x/y/z",
        ] {
            let told = server.get(path).await;
            told.assert_problem(401, "unauthorized");
            assert!(told.header("www-authenticate").is_some_and(|value| value.starts_with("Bearer ")), "{path}");
        }
        // The other role's token does not fit.
        server.host_get("/api/v1/admin/webhooks").await.assert_problem(401, "unauthorized");
        server.operator_get(&format!("/api/v1/users/{ADA}")).await.assert_problem(401, "unauthorized");
        // The right one does, whatever the scheme's case.
        let told =
            tell(server.client.get("/api/v1/admin/webhooks").header("Authorization", "bearer operator-token")).await;
        told.assert_ok();
        server.operator_get("/api/v1/admin/none").await.assert_problem(404, "not-found");
    });
}

#[test]
fn a_body_is_not_read_before_its_token_was_checked() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let body = || {
            Body::from_bytes_stream(stream::poll_fn(|_| -> std::task::Poll<Option<std::io::Result<Vec<u8>>>> {
                panic!("somebody read the body")
            }))
        };
        for (method, path) in [
            (Method::POST, "/api/v1/admin/webhooks/retry"),
            (Method::PUT, "/api/v1/users/0f8fad5b-d9cb-469f-a165-70867728950e"),
        ] {
            tell(server.client.request(method, path).body(body())).await.assert_problem(401, "unauthorized");
        }
    });
}

#[test]
fn wrong_tokens_are_limited_and_a_right_one_is_always_taken() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let wrong = || tell(server.client.get("/api/v1/admin/webhooks").header("Authorization", "Bearer guess"));
        for _ in 0..20 {
            wrong().await.assert_problem(401, "unauthorized");
        }
        let told = wrong().await;
        told.assert_problem(429, "too-many-failed-tries");
        assert!(told.header("retry-after").is_some());
        server.operator_get("/api/v1/admin/webhooks").await.assert_ok();
        // Who sends no token at all guesses nothing.
        server.get("/api/v1/admin/webhooks").await.assert_problem(401, "unauthorized");
    });
}

#[test]
fn whatever_goes_wrong_is_told_as_a_problem() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for path in ["/", "/none", "/api", "/healthz/none", "/api/v1/stripe/webhook/none", "/docs/none"] {
            server.get(path).await.assert_problem(404, "not-found");
        }
        let told = server.get(WEBHOOK).await;
        told.assert_problem(405, "method-not-allowed");
        assert_eq!(told.header("allow"), Some("POST"));
        let told = host(server.client.delete(format!("/api/v1/users/{ADA}"))).await;
        told.assert_problem(405, "method-not-allowed");
        let mut allowed: Vec<_> = told.header("allow").unwrap_or_default().split(", ").collect();
        allowed.sort_unstable();
        assert_eq!(allowed, ["GET", "PUT"]);
        tell(server.client.post("/docs")).await.assert_problem(405, "method-not-allowed");
    });
}

#[test]
fn every_answer_carries_an_id_and_keeps_browsers_out() {
    on_each(|database| async {
        let server = Server::new(database).await;
        for path in ["/healthz", "/none", "/api/v1/users", "/metrics", "/openapi.json", "/docs"] {
            let told = tell(server.client.get(path).header("Origin", "https://evil.example")).await;
            assert!(told.header("x-request-id").is_some_and(|id| id.len() == 36), "{path}");
            assert_eq!(told.header("x-content-type-options"), Some("nosniff"), "{path}");
            assert_eq!(told.header("cache-control"), Some("no-store"), "{path}");
            assert!(
                told.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'"))
            );
            assert_eq!(told.header("access-control-allow-origin"), None, "{path}");
        }
        assert_eq!(tell(server.client.head("/healthz")).await.status, StatusCode::OK);
    });
}

#[test]
fn a_server_is_ready_only_with_its_whole_schema_and_a_living_processor() {
    on_each(|database| async {
        let server = Server::with(database, |app| app.beat = Some(Arc::default())).await;
        let ready = server.get("/readyz").await.assert_ok();
        assert_eq!(ready["ready"], true);
        for part in ["database", "migrations", "processor"] {
            assert_eq!(ready[part]["state"], "ok", "{ready}");
        }
    });
    for kind in kinds() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
        runtime.block_on(async {
            let server = Server::new(TestDb::empty(kind).await).await;
            let told = server.get("/readyz").await;
            assert_eq!(told.status, StatusCode::SERVICE_UNAVAILABLE);
            let ready = told.json();
            assert_eq!((&ready["database"]["state"], &ready["migrations"]["state"]), (&json!("ok"), &json!("failed")));
        });
    }
}

#[test]
fn the_document_names_every_route_and_every_route_it_names_is_there() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let spec = server.get("/openapi.json").await;
        assert_eq!(spec.text, api::http::openapi_spec(), "the same as `trueup openapi`");
        let spec: Value = spec.json();
        let paths = spec["paths"].as_object().expect("paths");
        for path in [
            WEBHOOK,
            "/api/v1/users",
            "/api/v1/users/{id}",
            "/api/v1/users/{id}/timeline",
            "/api/v1/changes",
            "/api/v1/admin/webhooks",
            "/api/v1/admin/webhooks/failures",
            "/api/v1/admin/webhooks/stats",
            "/api/v1/admin/webhooks/retry",
            "/api/v1/admin/webhooks/{event_id}",
            "/api/v1/admin/webhooks/{event_id}/retry",
            "/healthz",
            "/readyz",
            "/metrics",
        ] {
            assert!(paths.contains_key(path), "{path}");
        }
        for (path, operations) in paths {
            for (method, operation) in operations.as_object().expect("operations") {
                let method: Method = method.to_uppercase().parse().expect("a method");
                let request =
                    server.client.request(method.clone(), path.replace("{id}", ADA).replace("{event_id}", "evt_1"));
                let told = match operation["security"][0].as_object().and_then(|security| security.keys().next()) {
                    Some(token) if token == "ApiToken" => host(request).await,
                    Some(_) => operator(request).await,
                    None => tell(request).await,
                };
                assert_ne!(told.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
                assert!(!told.text.contains("problems/not-found"), "{method} {path}");
                let gated =
                    ["/api/v1/users", "/api/v1/changes", "/api/v1/admin"].iter().any(|part| path.starts_with(part));
                assert_eq!(operation["security"].is_array(), gated, "{method} {path}");
                assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{method} {path}");
            }
        }
    });
}

#[test]
fn the_page_for_people_runs_only_its_own_scripts() {
    on_each(|database| async {
        let server = Server::new(database).await;
        let page = server.get("/docs").await;
        assert_eq!(page.status, StatusCode::OK);
        let policy = page.header("content-security-policy").expect("a policy");
        let nonce = policy.split_once("'nonce-").and_then(|(_, rest)| rest.split_once('\'')).expect("a nonce").0;
        assert_eq!(page.text.matches(&format!("<script nonce=\"{nonce}\"")).count(), 2);
        assert!(page.text.contains("receiveWebhook"));
    });
}
