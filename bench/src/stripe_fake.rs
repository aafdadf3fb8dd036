//! As much of Stripe's API as a reconciliation reads: any number of subscriptions, made as they are asked for and the same every time, paged as Stripe
//! does, each answer so much later than its request.
//!
//! HTTP/1.1 by hand: the fake shares the machine with what is measured, and should cost it little.

use std::{
    fmt::Write as _,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use billing::samples::{ApiVersion, Metadata, SubscriptionSample};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep_until},
};

// Each stands in the sample where the value of a field, which is just as long, goes.
const NUMBER: &str = "00NUMBER00";
const USER: &str = "b3ec0000-0000-4000-8000-ffffffffffff";
const CREATED: i64 = 1_999_999_997;
const QUANTITY: i64 = 1_999_999_996;

/// The newest subscription was made in this second, and each further one a minute before.
const NEWEST: i64 = 1_780_000_000;

/// What there is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct World {
    /// Subscriptions.
    pub(crate) subscriptions: u32,
    /// Of these, so many that have another quantity than where nothing changed, evenly spread.
    pub(crate) changed: u32,
    /// From a request to its answer.
    pub(crate) latency: Duration,
}

/// Everything the fake knows.
struct Fake {
    world: World,
    template: String,
    pages: AtomicU64,
}

/// Serves until it is killed. Prints its address in one line.
pub(crate) async fn serve(world: World) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port on loopback")?;
    let address = listener.local_addr().context("a listener has an address")?;
    writeln!(std::io::stdout().lock(), "http://{address}").context("stdout")?;
    let fake = Arc::new(Fake { world, template: template(), pages: AtomicU64::new(0) });
    loop {
        let (stream, _) = listener.accept().await.context("no further connection")?;
        stream.set_nodelay(true).context("a connection on loopback")?;
        tokio::spawn(connection(stream, Arc::clone(&fake)));
    }
}

async fn connection(mut stream: TcpStream, fake: Arc<Fake>) {
    let mut buffer: Vec<u8> = Vec::with_capacity(4096);
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            match stream.read_buf(&mut buffer).await {
                Ok(1..) if buffer.len() < 64 * 1024 => {}
                _ => return,
            }
        };
        let due = Instant::now() + fake.world.latency;
        let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
        buffer.drain(..end + 4);
        let target = head.split(' ').nth(1).unwrap_or_default();
        let (status, body) = fake.answer(target);
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nDate: {}\r\nRequest-Id: req_fake\r\nContent-Length: {}\r\n\r\n{body}",
            http_date(),
            body.len()
        );
        sleep_until(due).await;
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

impl Fake {
    fn answer(&self, target: &str) -> (&'static str, String) {
        const GOOD: &str = "200 OK";
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        match path {
            "/v1/account" => (GOOD, r#"{"id":"acct_fake","object":"account"}"#.to_owned()),
            "/v1/subscriptions" => {
                let limit = parameter("limit").and_then(|limit| limit.parse().ok()).unwrap_or(10).clamp(1, 100);
                let begin = parameter("starting_after").and_then(number).map_or(0, |number| number + 1);
                (GOOD, self.page(begin, limit))
            }
            "/v1/events" | "/v1/webhook_endpoints" => {
                (GOOD, r#"{"object":"list","data":[],"has_more":false}"#.to_owned())
            }
            // For whoever measures: how many pages were asked for.
            "/pages" => (GOOD, self.pages.load(Ordering::Relaxed).to_string()),
            path => match path.strip_prefix("/v1/subscriptions/").and_then(number) {
                Some(number) if number < self.world.subscriptions => {
                    let mut body = String::new();
                    self.subscription(&mut body, number);
                    (GOOD, body)
                }
                _ => {
                    let body = r#"{"error":{"type":"invalid_request_error","code":"resource_missing","message":"No such object"}}"#;
                    ("404 Not Found", body.to_owned())
                }
            },
        }
    }

    fn page(&self, begin: u32, limit: u32) -> String {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let end = begin.saturating_add(limit).min(self.world.subscriptions);
        let mut body = String::with_capacity(self.template.len() * 101);
        body.push_str(r#"{"object":"list","url":"/v1/subscriptions","data":["#);
        for number in begin..end {
            if number > begin {
                body.push(',');
            }
            self.subscription(&mut body, number);
        }
        let _ = write!(body, r#"],"has_more":{}}}"#, end < self.world.subscriptions);
        body
    }

    fn subscription(&self, body: &mut String, number: u32) {
        let World { subscriptions, changed, .. } = self.world;
        let every = subscriptions.checked_div(changed).map(|every| every.max(1));
        let quantity = if every.is_some_and(|every| number.is_multiple_of(every)) { 7 } else { 1 };
        let object = self
            .template
            .replace(NUMBER, &format!("{number:010}"))
            .replace(USER, &format!("{}{number:012x}", &USER[..24]))
            .replace(&CREATED.to_string(), &(NEWEST - i64::from(number) * 60).to_string())
            .replace(&QUANTITY.to_string(), &quantity.to_string());
        body.push_str(&object);
    }
}

/// The number of a subscription's id.
fn number(id: &str) -> Option<u32> {
    id.strip_prefix("sub_Fake")?.parse().ok()
}

fn template() -> String {
    let mut sample =
        SubscriptionSample::new(format!("sub_Fake{NUMBER}"), format!("cus_Fake{NUMBER}"), "active", CREATED);
    sample.items[0].lookup_key = Some("pro".to_owned());
    sample.items[0].quantity = QUANTITY;
    sample.set_period(1_790_000_000, 1_792_592_000);
    sample.metadata = Metadata::from([("user_id".to_owned(), USER.to_owned())]);
    sample.render(ApiVersion::LATEST).to_string()
}

/// Now, as RFC 9110 spells it.
fn http_date() -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let days = seconds / 86_400;
    // Howard Hinnant's days-to-civil, from 1970 on.
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 2 } else { shifted - 10 };
    let year = year_of_era + era * 400 + u64::from(month < 2);
    let name = |names: &[&'static str], index: u64| {
        usize::try_from(index).ok().and_then(|index| names.get(index).copied()).unwrap_or_default()
    };
    let time = seconds % 86_400;
    format!(
        "{}, {day:02} {} {year} {:02}:{:02}:{:02} GMT",
        name(&DAYS, days % 7),
        name(&MONTHS, month),
        time / 3600,
        time % 3600 / 60,
        time % 60
    )
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::Value;

    use super::*;

    fn fake(subscriptions: u32, changed: u32) -> Fake {
        let world = World { subscriptions, changed, latency: Duration::ZERO };
        Fake { world, template: template(), pages: AtomicU64::new(0) }
    }

    #[test]
    fn every_subscription_comes_once_newest_first_and_the_last_page_says_so() {
        let fake = fake(250, 5);
        let (mut ids, mut quantities, mut after) = (Vec::new(), Vec::new(), String::new());
        loop {
            let (status, body) = fake.answer(&format!("/v1/subscriptions?status=all&limit=100{after}"));
            assert_eq!(status, "200 OK");
            let page: Value = serde_json::from_str(&body).unwrap();
            for object in page["data"].as_array().unwrap() {
                ids.push(object["id"].as_str().unwrap().to_owned());
                quantities.push(object["items"]["data"][0]["quantity"].as_i64().unwrap());
            }
            if page["has_more"] == false {
                break;
            }
            after = format!("&starting_after={}", ids.last().unwrap());
        }
        assert_eq!(ids.len(), 250);
        assert!(ids.is_sorted() && ids[0] == "sub_Fake0000000000");
        assert_eq!(quantities.iter().filter(|quantity| **quantity == 7).count(), 5);
        assert_eq!(fake.answer("/pages").1, "3");
        let (_, one) = fake.answer("/v1/subscriptions/sub_Fake0000000007");
        let one: Value = serde_json::from_str(&one).unwrap();
        assert_eq!(one["metadata"]["user_id"], "b3ec0000-0000-4000-8000-000000000007");
        assert_eq!(fake.answer("/v1/subscriptions/sub_Fake0000000250").0, "404 Not Found");
        assert!(!one.to_string().contains("19999999"));
    }

    #[test]
    fn the_date_is_spelled_as_http_spells_it() {
        let told = DateTime::parse_from_rfc2822(&http_date()).unwrap();
        assert!((chrono::Utc::now() - told.to_utc()).num_seconds().abs() < 5, "{told}");
    }
}
