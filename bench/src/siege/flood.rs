//! Wrongly signed bodies.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};

/// Sends them over so many connections.
pub(crate) async fn flood(address: &str, connections: u32, bytes: usize, lasting: Duration) -> Result<Value> {
    let body = "x".repeat(bytes);
    let request = format!(
        "POST /api/v1/stripe/webhook HTTP/1.1\r\nHost: {address}\r\nStripe-Signature: t=1780000000,v1={}\r\nContent-Length: {bytes}\r\n\r\n{body}",
        "0".repeat(64)
    );
    let (request, refused) = (Arc::new(request.into_bytes()), Arc::new(AtomicU64::new(0)));
    let (begun, until) = (Instant::now(), Instant::now() + lasting);
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (address, request, refused) = (address.to_owned(), Arc::clone(&request), Arc::clone(&refused));
        tasks.spawn(async move {
            while Instant::now() < until {
                let Ok(stream) = TcpStream::connect(&address).await else { continue };
                let _ = send(stream, &request, until, &refused).await;
            }
        });
    }
    tasks.join_all().await;
    let refused = refused.load(Ordering::Relaxed);
    ensure!(refused > 0, "not one of the wrongly signed bodies was refused");
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = refused as f64 / begun.elapsed().as_secs_f64();
    Ok(json!({ "refused": refused, "refused_per_second": rate.round() }))
}

async fn send(mut stream: TcpStream, request: &[u8], until: Instant, refused: &AtomicU64) -> std::io::Result<()> {
    let mut answer = Vec::with_capacity(4096);
    while Instant::now() < until {
        stream.write_all(request).await?;
        answer.clear();
        // A problem ends with its object's last brace.
        while answer.last() != Some(&b'}') {
            if stream.read_buf(&mut answer).await? == 0 {
                return Ok(());
            }
        }
        if answer.starts_with(b"HTTP/1.1 400") {
            refused.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
