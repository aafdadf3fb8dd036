//! The server's outer edge, with a real process and real connections: slow clients, proxies, encryption, a listener for the figures.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{fs, path::Path, sync::Arc, time::Duration};

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use reqwest::{Certificate, Client, StatusCode};
use serde_json::json;
use testkit::{TestDb, kinds};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, interval, timeout},
};

use crate::process_harness::{Caller, LONG, Running};

fn series(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    line.unwrap_or_else(|| panic!("{name} is missing in {text}"))
}

async fn figures(caller: &Caller) -> String {
    caller.http.get(format!("{}/metrics", caller.url)).send().await.unwrap().text().await.unwrap()
}

/// A client that begins in one way and goes on with a byte now and then, until it is cut off; tells after how long that was.
async fn slow(address: String, beginning: &'static str, drip: bool, came: Arc<Semaphore>) -> Duration {
    let mut stream = TcpStream::connect(&address).await.unwrap();
    came.add_permits(1);
    let begun = Instant::now();
    let _ = stream.write_all(beginning.as_bytes()).await;
    let (mut reader, mut writer) = stream.into_split();
    let dripping = async {
        let mut ticks = interval(Duration::from_millis(100));
        while drip && writer.write_all(b"x").await.is_ok() {
            ticks.tick().await;
        }
        std::future::pending::<()>().await;
    };
    let cut = async {
        let mut answer = [0; 1024];
        while reader.read(&mut answer).await.is_ok_and(|read| read > 0) {}
    };
    tokio::select! {
        () = dripping => {}
        () = cut => {}
    }
    begun.elapsed()
}

#[tokio::test]
async fn slow_clients_hold_few_connections_for_a_short_time_and_honest_webhooks_do_not_notice() {
    const SLOW: usize = 120;
    const MOST: u64 = 40;
    let folder = tempfile::tempdir().unwrap();
    let bounds = format!("[http]\nconnections = {MOST}\nhead_timeout = \"2s\"\nidle_timeout = \"3s\"\n");
    fs::write(folder.path().join("trueup.toml"), bounds).unwrap();
    let server = Running::start(folder.path(), &[], &[]);
    let url = server.url().await;
    let caller = Caller::new(&url, &folder.path().join("data"));
    let address = url.trim_start_matches("http://").to_owned();
    let (mut clients, came) = (JoinSet::new(), Arc::new(Semaphore::new(0)));
    for number in 0..SLOW {
        let (beginning, drip) = match number % 4 {
            0 => ("POST /api/v1/stripe/webhook HTTP/1.1\r\nHost: x\r\nX-Slow: ", true),
            1 => ("GET /healthz HTTP/1.1\r\nHost: x\r\n", false),
            2 => ("POST /api/v1/stripe/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{", true),
            _ => ("", false),
        };
        clients.spawn(slow(address.clone(), beginning, drip, Arc::clone(&came)));
    }
    // Connections are taken in their order, so whoever comes from now on comes after them.
    timeout(LONG, came.acquire_many(SLOW.try_into().unwrap())).await.expect("all connect").unwrap().forget();
    let mut slowest = Duration::ZERO;
    for number in 0..30 {
        // A new connection for each, as if it had just come.
        let fresh = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let event = json!({ "id": format!("evt_{number}"), "object": "event", "type": "customer.created", "created": 1, "data": { "object": {} } });
        let (body, signature) = caller.signed(&event);
        let begun = Instant::now();
        let request = fresh.post(format!("{url}/api/v1/stripe/webhook")).header("stripe-signature", signature);
        assert_eq!(request.body(body).send().await.unwrap().status(), StatusCode::OK);
        slowest = slowest.max(begun.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "Stripe would have waited {slowest:?}");
    // Everybody is cut off, or told, by the longest bound there is, which is that of a body: 8 s.
    let ended = timeout(LONG, async {
        let mut longest = Duration::ZERO;
        while let Some(held) = clients.join_next().await {
            longest = longest.max(held.unwrap());
        }
        longest
    });
    let longest = ended.await.expect("some slow client was never cut off");
    assert!(longest < Duration::from_secs(20), "somebody held a connection for {longest:?}");
    let told = figures(&caller).await;
    assert!(series(&told, "trueup_http_connections ") <= MOST);
    let refused =
        |reason: &str| series(&told, &format!("trueup_http_connections_refused_total{{reason=\"{reason}\"}}"));
    assert!(refused("gave-way") > 0, "there were three times as many as may be");
    assert!(refused("slow-head") > 0);
    server.stop().await;
}

#[tokio::test]
async fn wrong_tokens_are_counted_for_the_client_that_a_trusted_proxy_names() {
    let folder = tempfile::tempdir().unwrap();
    for (trusted, shared) in [("127.0.0.1", false), ("192.0.2.0/24", true)] {
        let server = Running::start(folder.path(), &[("TRUEUP_TRUSTED_PROXIES", trusted)], &[]);
        let caller = Caller::new(&server.url().await, &folder.path().join("data"));
        let guess = async |client: &str| {
            let request = caller.http.get(format!("{}/api/v1/admin/webhooks", caller.url));
            let request = request.bearer_auth("wrong").header("x-forwarded-for", format!("203.0.113.1, {client}"));
            request.send().await.unwrap().status().as_u16()
        };
        for _ in 0..20 {
            assert_eq!(guess("198.51.100.1").await, 401);
        }
        assert_eq!(guess("198.51.100.1").await, 429);
        assert_eq!(guess("198.51.100.2").await, if shared { 429 } else { 401 });
        // A right one is taken at any time.
        let right = caller.http.get(format!("{}/api/v1/admin/webhooks", caller.url));
        let right = right.bearer_auth(caller.secrets.admin_token.expose()).header("x-forwarded-for", "198.51.100.1");
        assert_eq!(right.send().await.unwrap().status(), StatusCode::OK);
        let named = if shared { "\"peer\":\"127.0.0.1\"" } else { "\"peer\":\"198.51.100.1\"" };
        server.line_with(named).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn figures_have_a_listener_and_a_token_of_their_own_where_that_is_asked_for() {
    const TOKEN: &str = "0123456789-scraper";
    let folder = tempfile::tempdir().unwrap();
    let variables = [("TRUEUP_METRICS_LISTEN", "127.0.0.1:0"), ("TRUEUP_METRICS_TOKEN", TOKEN)];
    let server = Running::start(folder.path(), &variables, &[]);
    let caller = Caller::new(&server.url().await, &folder.path().join("data"));
    let line = server.line_with("listener of their own").await;
    let own = line.rsplit(' ').next().unwrap().to_owned();
    let status = async |url: &str, token: Option<&str>| {
        let request = caller.http.get(url);
        let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(&own, None).await, 401);
    assert_eq!(status(&own, Some(TOKEN)).await, 200);
    assert_eq!(status(&format!("{}/metrics", caller.url), Some(TOKEN)).await, 404);
    server.stop().await;
}

pub(crate) struct Files {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Files {
    pub(crate) fn of(folder: &Path) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        Self { certificate: path("cert.pem"), key: path("key.pem") }
    }

    /// Writes a new certificate and a client that believes in it alone.
    pub(crate) fn renew(&self) -> Client {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        fs::write(&self.key, signing_key.serialize_pem()).unwrap();
        fs::write(&self.certificate, cert.pem()).unwrap();
        let root = Certificate::from_pem(cert.pem().as_bytes()).unwrap();
        Client::builder().no_proxy().tls_certs_only([root]).timeout(LONG).build().unwrap()
    }
}

#[tokio::test]
async fn the_server_encrypts_by_itself_and_takes_a_new_certificate_without_dropping_a_connection() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let files = Files::of(folder.path());
    let first = files.renew();
    let variables = [("TRUEUP_TLS_CERT", &*files.certificate), ("TRUEUP_TLS_KEY", &*files.key)];
    let server = Running::start(folder.path(), &variables, &[]);
    let line = server.line_with(" listens on https://").await;
    let url = format!("{}/healthz", line.rsplit(' ').next().unwrap());
    let answer = first.get(&url).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert!(answer.headers().contains_key("strict-transport-security"));
    assert!(Client::builder().no_proxy().tls_certs_only([]).build().unwrap().get(&url).send().await.is_err());
    // Without encryption there is nothing to be had.
    let plain = Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
    assert!(plain.get(url.replace("https", "http")).send().await.is_err());

    let second = files.renew();
    server.signal("HUP");
    server.line_with("new connections are shown the certificate as it is now").await;
    assert_eq!(second.get(&url).send().await.unwrap().status(), StatusCode::OK);
    // The connection that was open goes on: a new one would not be believed.
    assert_eq!(first.get(&url).send().await.unwrap().status(), StatusCode::OK);

    fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    server.signal("HUP");
    server.line_with("the old one stays until it is mended").await;
    let again = {
        let root = fs::read(&files.certificate).unwrap();
        let root = Certificate::from_pem(&root).unwrap();
        Client::builder().no_proxy().tls_certs_only([root]).timeout(LONG).build().unwrap()
    };
    assert_eq!(again.get(&url).send().await.unwrap().status(), StatusCode::OK, "the certificate of before");
    server.stop().await;
}

#[tokio::test]
async fn a_certificate_that_cannot_be_used_is_told_at_the_start() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let files = Files::of(folder.path());
    let _ = files.renew();
    fs::write(&files.certificate, "not a certificate").unwrap();
    let variables = [("TRUEUP_TLS_CERT", &*files.certificate), ("TRUEUP_TLS_KEY", &*files.key)];
    let ran = crate::process_harness::run(folder.path(), &variables, &["serve"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("holds no certificate"), "{}", ran.err);
}

#[tokio::test]
async fn connections_that_wait_for_their_clients_do_not_hold_up_the_end() {
    // Half a head, half a body and an idle connection are open when the server is told to stop.
    for kind in kinds() {
        let database = TestDb::empty(kind).await;
        let folder = tempfile::tempdir().unwrap();
        let server = Running::start(folder.path(), &[("DATABASE_URL", database.url())], &[]);
        let address = server.url().await.trim_start_matches("http://").to_owned();
        let mut open = Vec::new();
        for beginning in [
            "",
            "GET /healthz HTTP/1.1\r\nHo",
            "POST /api/v1/stripe/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
        ] {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(beginning.as_bytes()).await.unwrap();
            open.push(stream);
        }
        server.stop().await;
    }
}
