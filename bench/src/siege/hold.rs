//! Connections that are held: by clients that are slow, and by clients that do nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, interval, sleep, sleep_until},
};

/// How slow requests begin, after which one byte a second follows.
const BEGINNINGS: [&str; 3] = [
    "POST /api/v1/stripe/webhook HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    "POST /api/v1/stripe/webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n",
    "",
];

/// Keeps so many connections busy.
pub(crate) async fn slow(address: &str, connections: u32, lasting: Duration) -> Result<Value> {
    let until = Instant::now() + lasting;
    let (opened, longest) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut tasks = JoinSet::new();
    for number in 0..connections {
        let beginning = BEGINNINGS[number as usize % BEGINNINGS.len()];
        let (address, opened, longest) = (address.to_owned(), Arc::clone(&opened), Arc::clone(&longest));
        tasks.spawn(async move {
            while Instant::now() < until {
                let Ok(stream) = TcpStream::connect(&address).await else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                opened.fetch_add(1, Ordering::Relaxed);
                let begun = Instant::now();
                drip(stream, beginning, until).await;
                longest.fetch_max(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
                // As a slow client is slow to come again.
                sleep(Duration::from_secs(1)).await;
            }
        });
    }
    tasks.join_all().await;
    Ok(json!({ "opened": opened.load(Ordering::Relaxed), "longest_held_ms": longest.load(Ordering::Relaxed) }))
}

async fn drip(stream: TcpStream, beginning: &str, until: Instant) {
    let (mut reader, mut writer) = stream.into_split();
    let mut ticks = interval(Duration::from_secs(1));
    let writing = async {
        let mut written = writer.write_all(beginning.as_bytes()).await;
        while written.is_ok() {
            ticks.tick().await;
            written = writer.write_all(b"x").await;
        }
    };
    let reading = async {
        let mut answer = [0; 1024];
        while reader.read(&mut answer).await.is_ok_and(|read| read > 0) {}
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
        () = sleep_until(until) => {}
    }
}

/// Opens so many, and holds them.
pub(crate) async fn idle(address: &str, connections: u32, lasting: Duration) -> Result<Value> {
    let (mut streams, mut refused) = (Vec::new(), 0_u32);
    for _ in 0..connections {
        match tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(address)).await {
            Ok(Ok(stream)) => streams.push(stream),
            Ok(Err(_)) | Err(_) => refused += 1,
        }
    }
    sleep(lasting).await;
    let (opened, mut held) = (streams.len(), 0_u32);
    for stream in streams {
        // Whoever was cut reads an end, or an error.
        let mut byte = [0];
        held += u32::from(
            matches!(stream.try_read(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock),
        );
    }
    Ok(json!({ "opened": opened, "refused": refused, "still_open": held }))
}
